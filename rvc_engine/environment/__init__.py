"""The user's system: proxies named in environment variables, text files in the encodings of its editors. No torch."""
