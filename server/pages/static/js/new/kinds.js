// What voices and base weights are made for, in words.

import { number, t } from "../words.js";

/** A kind: version, sample rate, pitch, width and encoder, as far as they are known. `settings`: with the usual values. */
export function kindText({ version, sample_rate: rate, f0, width, content }, settings) {
  return [
    version,
    rate,
    f0 == null ? null : t(f0 ? "kind.pitch" : "kind.no_pitch"),
    width == null || width === settings.usual("width") ? null : t("kind.width", { n: number(width) }),
    content == null || content === settings.usual("content") ? null : content,
  ].filter(Boolean).join(" · ");
}
