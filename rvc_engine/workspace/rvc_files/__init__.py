"""Files of RVC WebUI that users edit: `filelist.txt`, `config.json` of a run and its templates in `configs/`."""
