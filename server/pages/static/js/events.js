// Events in the reader's language: by their type and values. Others have the server's text, which is in that language too.

import { count, duration, figure, has, number, t } from "./words.js";

/** Why a training with total_epochs=auto ended, and which save is the voice. */
export function endText({ reason, epoch, best_epoch: best }) {
  const epochs = count("job.epochs", epoch);
  return best == null ? t("job.end.unmeasured", { epochs }) : t(`job.end.${reason}`, { epochs, best: number(best) });
}

export function eventText({ type, data, message }) {
  switch (type) {
    case "stage_changed": {
      const stage = t(`stage.${data.stage}`);
      if (data.state === "finished" && data.seconds != null) return t("event.stage.took", { stage, time: duration(data.seconds) });
      return t(`event.stage.${data.state}`, { stage });
    }
    case "checkpoint_saved":
      return t("event.checkpoint_saved", { step: data.step });
    case "evaluated":
      return t(data.is_best ? "event.evaluated_best" : "event.evaluated", { save: t("job.save_name", data), mel: figure(data.values?.["eval/mel"]) });
    case "training_ended":
      return endText(data);
    case "quality_scored":
      return t("event.quality_scored", { save: t("job.save_name", data) });
    case "preview_ready":
      return t("event.preview_ready", { save: t("job.save_name", data) });
    case "artifact_published":
      return data.name ? t("event.artifact_published", { name: data.name }) : message;
    case "failed":
    case "retrying":
    case "paused":
      if (data.code && has(`failure.${data.code}`)) return t(`event.${type}_after`, { what: t(`failure.${data.code}`) });
      return type === "paused" ? t("event.paused") : message;
    default:
      return has(`event.${type}`) ? t(`event.${type}`) : message.charAt(0).toUpperCase() + message.slice(1);
  }
}
