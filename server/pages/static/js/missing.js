// The page of an address without one: only what all pages have.

import "./shell.js";
