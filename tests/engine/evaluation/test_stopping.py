"""The end of training with total_epochs=auto, by recorded evaluations."""

import pytest

from rvc_engine.evaluation.history import Row
from rvc_engine.evaluation.stopping import MIN_EVALUATIONS, MIN_SPACING, earliest_end, has_converged, is_due

STOP_SHARE = 0.3


def rows(*mels: float, every: int = 100, cents: float = 20.0) -> list[Row]:
    return [
        Row(step=every * number, epoch=number, values={"eval/mel": mel, "eval/f0_cents": cents})
        for number, mel in enumerate(mels, start=1)
    ]


def end_of(found: list[Row]) -> int | None:
    """Number of the evaluation at which training ends."""
    return next((end for end in range(1, len(found) + 1) if has_converged(found[:end], STOP_SHARE)), None)


FALLING = [40.0 * 0.95**number for number in range(14)]


def test_training_ends_once_a_share_of_its_steps_was_in_vain() -> None:
    assert end_of(rows(*FALLING, *[FALLING[-1]] * 20)) == 22, "the median follows one evaluation later: 22 - 15 >= 6.6"
    assert end_of(rows(*[40.0 * 0.98**number for number in range(60)])) is None


def test_slow_progress_is_progress_until_it_is_within_chance() -> None:
    assert end_of(rows(*[40.0 * 0.997**number for number in range(60)])) is None
    assert end_of(rows(*[40.0 * 0.9999**number for number in range(60)])) == MIN_EVALUATIONS


def test_one_lucky_evaluation_does_not_prolong_training_and_one_bad_does_not_end_it() -> None:
    flat = [FALLING[-1]] * 20
    lucky = [*flat[:4], 0.8 * flat[0], *flat[5:]]
    assert end_of(rows(*FALLING, *lucky)) == end_of(rows(*FALLING, *flat))
    bumpy = [1.3 * mel if number % 3 == 1 else mel for number, mel in enumerate(40.0 * 0.95**n for n in range(40))]
    assert end_of(rows(*bumpy)) is None


def test_a_right_pitch_is_better_than_any_mel_with_a_wrong_one() -> None:
    found = rows(*[20.0] * 10, cents=900.0) + [
        row.model_copy(update={"step": row.step + 1000, "epoch": row.epoch + 10}) for row in rows(*[22.0] * 10)
    ]
    assert end_of(found[:10]) == MIN_EVALUATIONS
    assert earliest_end(found, STOP_SHARE) > earliest_end(found[:10], STOP_SHARE), "the turn to a right pitch is a gain"


def test_it_ends_neither_without_evaluations_nor_after_a_few() -> None:
    assert not has_converged([], STOP_SHARE)
    assert not has_converged(rows(*[20.0] * (MIN_EVALUATIONS - 1)), STOP_SHARE)
    assert not has_converged([Row(step=9, epoch=1, values={})] * 3, STOP_SHARE)


def test_evaluations_are_due_at_a_share_of_the_steps_so_far() -> None:
    assert not is_due([], MIN_SPACING - 1)
    assert is_due([], MIN_SPACING)
    far = rows(30.0, every=10_000)
    assert not is_due(far, 10_400)
    assert is_due(far, 10_600)


@pytest.mark.parametrize("stop_share", [0.1, 0.5])
def test_the_earliest_end_is_where_the_share_is_used_up(stop_share: float) -> None:
    found = rows(*FALLING, FALLING[-1])  # the median is one evaluation behind
    end = earliest_end(found, stop_share)
    flat = Row(step=end, epoch=99, values=found[-1].values)
    assert has_converged([*found, flat], stop_share)
    assert not has_converged([*found, flat.model_copy(update={"step": end - 20})], stop_share)
