// The page's language: texts, and the format of numbers, sizes, times and durations.

const words = JSON.parse(document.getElementById("words").textContent);
export const language = document.documentElement.lang;
const plural = new Intl.PluralRules(language);
const relative = new Intl.RelativeTimeFormat(language, { numeric: "auto" });
const clock = new Intl.DateTimeFormat(language, { dateStyle: "short", timeStyle: "medium" });

/** The text of a key, with `{names}` filled in. A missing key is shown as it is; a test checks that none is missing. */
export function t(key, values = {}) {
  const text = words[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (_, name) => String(values[name] ?? ""));
}

/** Whether there is a text: for the server's terms, such as codes of a newer version. */
export const has = (key) => key in words;

/** The text for a count: `key.one` or `key.other`. */
export function count(key, n) {
  const form = `${key}.${plural.select(n)}`;
  return t(has(form) ? form : `${key}.other`, { n: number(n) });
}

export const number = (value, digits = 0) =>
  new Intl.NumberFormat(language, { maximumFractionDigits: digits }).format(value);

/** A number with four significant digits. */
export const figure = (value) =>
  value == null ? "–" : new Intl.NumberFormat(language, { maximumSignificantDigits: 4 }).format(value);

/** The ticks of an axis, each as short as they stay distinct. */
export function marks(ticks) {
  for (let digits = 2; digits <= 9; digits += 1) {
    const shown = ticks.map((value) => (value !== 0 && Math.abs(value) < 0.001
      ? `${Number((value / 10 ** Math.floor(Math.log10(Math.abs(value)))).toPrecision(digits))}e${Math.floor(Math.log10(Math.abs(value)))}`.replace("e-", "e−")
      : new Intl.NumberFormat(language, { maximumSignificantDigits: Math.max(digits, 4) }).format(value)));
    if (new Set(shown).size === shown.length) return shown;
  }
  return ticks.map(figure);
}

export const percent = (share, digits = 0) =>
  new Intl.NumberFormat(language, { style: "percent", maximumFractionDigits: digits }).format(share);

/** Names in a row: "ContentVec, RMVPE and FCPE"; beside Chinese characters Latin ones stand apart, unlike those of `Intl.ListFormat`. */
export function list(names) {
  const row = names.length < 2 ? names.join("") : names.slice(0, -1).join(t("page.comma")) + t("page.and") + names.at(-1);
  return row.replace(/(?<=\p{sc=Han})(?=[\p{sc=Latin}\d])|(?<=[\p{sc=Latin}\d])(?=\p{sc=Han})/gu, " ");
}

/** Bytes, in units of 1000. */
export function size(bytes) {
  const units = ["byte", "kilobyte", "megabyte", "gigabyte", "terabyte"];
  const place = bytes > 0 ? Math.min(Math.floor(Math.log10(bytes) / 3), 4) : 0;
  const options = { style: "unit", unit: units[place], unitDisplay: place ? "short" : "long", maximumFractionDigits: place > 1 ? 1 : 0 }; // short has no plural: "2 byte"
  return new Intl.NumberFormat(language, options).format(bytes / 1000 ** place);
}

/** Seconds as the two largest units: "1 h 20 min". */
export function duration(seconds) {
  const units = [[86400, "day"], [3600, "hour"], [60, "minute"], [1, "second"]];
  const whole = Math.max(0, Math.round(seconds));
  const first = units.findIndex(([length]) => whole >= length);
  if (first < 0) return unit(0, "second");
  const [length, name] = units[first];
  const next = units[first + 1];
  const rest = next ? Math.floor((whole % length) / next[0]) : 0;
  return unit(Math.floor(whole / length), name) + (rest ? ` ${unit(rest, next[1])}` : "");
}

function unit(value, name, maximumFractionDigits = 0) {
  return new Intl.NumberFormat(language, { style: "unit", unit: name, unitDisplay: "short", maximumFractionDigits }).format(value);
}

/** A time below a minute, to the hundredth: "0.28 sec". */
export const seconds = (value) => unit(value, "second", 2);

/** The time of a training step, with four significant digits: "0.0834 sec". */
export const stepTime = (value) => new Intl.NumberFormat(language, { style: "unit", unit: "second", unitDisplay: "short", maximumSignificantDigits: 4 }).format(value);

/** The length of a recording; of a short one to the tenth: "5.5 sec". */
export const lengthOf = (value) => (value < 10 ? unit(value, "second", 1) : duration(value));

const UNITS = [[86400, "day"], [3600, "hour"], [60, "minute"]];

/** A range of seconds as one figure with its margin: "about 40 minutes (25 to 80)"; without the margin where it is narrow. */
export function about(range) {
  const likely = range.likely ?? Math.sqrt(Math.max(range.low, 1) * range.high);
  const [length, name] = UNITS.find(([one]) => likely >= 0.95 * one) ?? UNITS.at(-1);
  const digits = (seconds) => (seconds < 3 * length && (name !== "minute" || seconds < length) ? 1 : 0);
  const shown = Math.max(likely, length);
  const format = { style: "unit", unit: name, unitDisplay: "long", maximumFractionDigits: digits(shown) };
  const value = new Intl.NumberFormat(language, format).format(shown / length);
  const [low, high] = [range.low, range.high].map((seconds) => number(seconds / length, digits(seconds)));
  return range.high > 1.2 * range.low && high !== low ? t("time.about_range", { value, low, high }) : t("time.about", { value });
}

/** A range of seconds until something: exact below a minute. */
export const span = (range) => (range.high < 60 ? duration(range.likely ?? range.high) : about(range));

export const when = (iso) => clock.format(new Date(iso));

/** How long ago, in one unit. */
export function ago(iso) {
  const seconds = (Date.now() - new Date(iso)) / 1000;
  for (const [length, name] of [[86400, "day"], [3600, "hour"], [60, "minute"]]) {
    if (seconds >= length) return relative.format(-Math.floor(seconds / length), name);
  }
  return relative.format(-Math.max(0, Math.floor(seconds)), "second");
}

/** The name of published weights as people know them. */
export function weightsName(id) {
  const [, version, rate] = /^pretrained-(v\d)-(\d+k)$/.exec(id) ?? [];
  if (version) return t("weights.pretrained", { version, rate });
  return has(`weights.${id}`) ? t(`weights.${id}`) : id;
}
