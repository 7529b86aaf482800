// The voice of this page's address in the API.

import { withQuery } from "../api.js";
import { root } from "../dom.js";

const owner = new URLSearchParams(location.search).get("owner");
const whole = `/v1${location.pathname.slice(root.length)}`;

/** Path of the voice; an administrator names another owner. */
export const path = withQuery(whole, { owner });
/** A path below the voice's. */
export const sub = (part, words = {}) => withQuery(whole + part, { ...words, owner });
