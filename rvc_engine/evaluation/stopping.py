"""The end of a training with `total_epochs=auto`: once saves no longer improve on the evaluated clips. No torch.

Decided by the recorded evaluations alone: a run that is resumed ends where it would have ended without interruption.
"""

from collections.abc import Sequence

from rvc_engine.evaluation.history import Row, Score

MIN_EVALUATIONS = 8
"""Training does not end before so many."""
SPACING = 0.05
"""Share of the steps so far from one evaluation to the next. As `stop_share` is a share too, the same number of
evaluations decides after an hour as after a day."""
MIN_SPACING = 50
"""Fewest steps from one evaluation to the next: an evaluation takes the time of a few."""
MIN_STEPS = MIN_SPACING * MIN_EVALUATIONS
NUM_SMOOTHED = 3
"""Evaluations whose median is compared, so that a single lucky or unlucky one does not count."""
MIN_GAIN = 0.005
"""Share by which the smoothed score must fall to count as better: it also falls by chance while nothing improves."""


def is_due(rows: Sequence[Row], step: int) -> bool:
    """Whether to evaluate at this step."""
    last = rows[-1].step if rows else 0
    return step - last >= max(MIN_SPACING, SPACING * step)


def earliest_end(rows: Sequence[Row], stop_share: float) -> int:
    """The step at which training ends if no evaluation from now on is better."""
    return max(MIN_STEPS, round(_last_gain(rows) / (1 - stop_share)))


def has_converged(rows: Sequence[Row], stop_share: float) -> bool:
    """Whether the last evaluations, over a share `stop_share` of all steps, were not better than those before."""
    if len(rows) < MIN_EVALUATIONS:
        return False
    step = rows[-1].step
    return step - _last_gain(rows) >= stop_share * step


def _last_gain(rows: Sequence[Row]) -> int:
    """Step of the last evaluation that was better than all before it; 0 without any."""
    best: Score | None = None
    step = 0
    for last, row in enumerate(rows, start=1):
        latest = sorted(each.score for each in rows[max(0, last - NUM_SMOOTHED) : last])
        smoothed = latest[len(latest) // 2]
        if best is None or _is_better(smoothed, best):
            best, step = smoothed, row.step
    return step


def _is_better(one: Score, other: Score) -> bool:
    if one[0] != other[0]:
        return one[0] < other[0]
    return one[1] < other[1] * (1 - MIN_GAIN)
