#!/bin/bash
# Starts as many workers (worker.sbatch) as jobs are due on the server, up to a number. For cron or scrontab, every minute:
#   fill.sh 20 [options of sbatch]
# It counts jobs that ask for at most one GPU and for no label; start workers for others by hand.
set -euo pipefail
most=${1:?the most workers at a time}
shift
settings=${RVC_SETTINGS:-$HOME/.config/rvc-train/worker.env}
# shellcheck disable=SC1090
. "$settings"
due=$(curl --fail --silent --show-error --max-time 30 --header @- --header "Worker-Protocol: 1" \
  "$RVC_TRAIN_WORKER_SERVER/v1/worker/queue?limit=100" <<< "Authorization: Bearer $RVC_TRAIN_TOKEN" |
  python3 -c 'import json, sys; print(sum(job["gpus"] < 2 and not job["labels"] for job in json.load(sys.stdin)["jobs"]))')
workers() { squeue --me --noheader --array --name=rvc-worker "$@" | wc -l; }
new=$((due - $(workers --states=PENDING)))
room=$((most - $(workers)))
new=$((new < room ? new : room))
if [ "$new" -gt 0 ]; then sbatch --array="1-$new" "$@" "$(dirname "$0")/worker.sbatch"; fi
