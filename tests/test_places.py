"""Metrics by step and by pixel: public implementations, brute force, and the ends of each range."""

import numpy as np
import pytest
from sklearn import metrics as sk

from jaxae.errors import UserError
from jaxae.stats import pixels, ranges, steps

CLOSE = {"rel": 0, "abs": 1e-6}

# seed, steps, window: VUS-ROC and VUS-PR by `generate_curve(version="opt")` of TSB_AD 1.5 (the code
# of vus 0.0.6), AUC-PR by its `metric_PR`, range precision and recall by prts 1.0.0.3 (defaults).
SERIES = {
    (0, 300, 100): (0.9402283041293754, 0.6865219000494958, 0.16134571955455296, 1 / 7, 0.225),
    (1, 80, 7): (0.8436735477980992, 0.8285522960431542, 0.8126157993667527, 0.8125, 0.5292397661),
    (2, 1000, 30): (
        0.8583198211858438,
        0.2287636514726951,
        0.1743977515760995,
        11 / 130,
        12.9 / 28,
    ),
}
# seed: by `AUPRO(fpr_limit=0.3)` of anomalib 2.7.0
AUPRO = {0: 0.5123120546340942, 1: 0.5657824873924255, 2: 0.5693339109420776}


def series(seed, n):
    rng = np.random.default_rng(seed)
    y = np.zeros(n, bool)
    for start, length in zip(rng.integers(0, n, 5), rng.integers(1, 20, 5), strict=True):
        y[start : start + length] = True
    scores = np.round(rng.normal(size=n) + y, 1).astype(np.float32)
    return scores, y, scores > 1


def images(seed):
    rng = np.random.default_rng(seed)
    truth = rng.random((3, 12, 10)) < 0.2
    truth[0] = False
    maps = np.round(rng.random((3, 12, 10)) + truth * 0.4, 1).astype(np.float32)
    return maps, truth


@pytest.mark.parametrize(("seed", "n", "window"), SERIES)
def test_metrics_by_step_are_those_of_the_public_implementations(seed, n, window):
    scores, y, is_alarm = series(seed, n)
    got = steps.by_step(scores, y, is_alarm, window)
    values = got.vus_roc, got.vus_pr, got.average_precision, got.range_precision, got.range_recall
    assert values == pytest.approx(SERIES[seed, n, window], **CLOSE)


def buffered(y, width):
    """The weight of every step, and the widened ranges, joined where they share a step."""
    weight, wide, reach = y.astype(float), [], width // 2
    for start, end in ranges.ranges(y):
        steps_beside = range(max(start - reach, 0), min(end + reach, len(y)))
        for step in steps_beside:
            distance = max(start - step, step - end + 1, 0)
            weight[step] += np.sqrt(1 - distance / width) if distance else 0
        if wide and wide[-1][-1] in steps_beside:
            steps_beside = range(wide.pop()[0], steps_beside[-1] + 1)
        wide.append(steps_beside)
    return np.minimum(weight, 1), wide


def volumes_by_hand(scores, y, window):
    roc, pr = [], []
    cuts = np.sort(scores)[::-1][np.linspace(0, len(y) - 1, 250).astype(int)]
    for width in range(window + 1):
        weight, wide = buffered(y, width)
        points = [(0.0, 0.0, 1.0)]
        for flagged in (scores >= cut for cut in cuts):
            tp, positives = weight @ flagged, y.sum() + weight @ (flagged & ~y) / 2
            found = np.mean([flagged[list(of_range)].any() for of_range in wide])
            fpr = (flagged.sum() - tp) / (len(y) - positives)
            points.append((fpr, min(tp / positives, 1) * found, tp / flagged.sum()))
        fpr, tpr, precision = np.array(points).T
        roc.append(np.trapezoid([*tpr, 1], [*fpr, 1]))
        pr.append(np.diff(tpr) @ precision[1:])
    return np.mean(roc), np.mean(pr)


@pytest.mark.parametrize("seed", range(3))
def test_volumes_follow_from_their_definition(seed):
    scores, y, _ = series(seed, 60)
    y[-3:] = y[0] = True  # ranges at both ends
    scores[5] = -np.inf
    assert steps.volumes(scores, y, 9) == pytest.approx(volumes_by_hand(scores, y, 9), abs=1e-12)


def test_buffers_that_share_a_step_are_one_range_and_neighbours_are_two():
    scores = np.where(np.arange(20) < 8, 1.0, 0.0)
    # By TSB_AD 1.5. With 2 steps on each side, 5 and 10 reach 3 ... 7 and 8 ... 12; 9 reaches 7.
    for second, expected in {
        10: (0.5471894858, 0.2482712209),
        9: (0.5881866908, 0.2659592123),
    }.items():
        y = np.isin(np.arange(20), (5, second))
        assert steps.volumes(scores, y, 4) == pytest.approx(expected, abs=1e-9)


def test_ranges_are_counted_once_and_delays_from_their_start():
    y = np.array([1, 1, 1, 1, 0, 0, 1, 1, 0, 1], bool)
    is_alarm = np.array([0, 0, 1, 1, 1, 0, 1, 0, 0, 0], bool)
    assert ranges.ranges(y).tolist() == [[0, 4], [6, 8], [9, 10]]
    covered = ranges.coverage(is_alarm, y)
    assert covered == pytest.approx(((2 / 3 + 1) / 2, (1 / 2 + 1 / 2) / 3, 10 / 21))
    assert ranges.detection(is_alarm, y) == pytest.approx((2 / 3, 1.0))
    adjusted = ranges.point_adjusted(is_alarm, y)
    assert adjusted.is_alarm.tolist() == [True] * 5 + [False] + [True] * 2 + [False] * 2
    assert "Kim et al." in adjusted.warning
    assert is_alarm.sum() == 4  # the decisions themselves stay


def test_series_without_one_of_the_classes_and_with_equal_scores():
    scores, y, is_alarm = series(0, 50)
    none = steps.by_step(scores, np.zeros(50, bool), is_alarm)
    assert none.range_precision == 0
    assert np.isnan(np.array(none)[[0, 1, 2, 3, 5, 7, 8]]).all()
    everything = steps.by_step(scores, np.ones(50, bool), is_alarm)
    assert np.isnan([everything.auroc, everything.vus_roc, everything.vus_pr]).all()
    assert (everything.average_precision, everything.range_precision, everything.found) == (1, 1, 1)
    quiet = steps.by_step(scores, y, np.zeros(50, bool))
    assert (quiet.range_precision, quiet.range_recall, quiet.range_f1, quiet.found) == (0, 0, 0, 0)
    assert np.isnan(quiet.delay)
    equal = steps.by_step(np.ones(50, np.float32), y, is_alarm, window=0)
    assert (equal.auroc, equal.vus_roc) == pytest.approx((0.5, 0.5))
    assert (equal.average_precision, equal.vus_pr) == pytest.approx((y.mean(), y.mean()))
    with pytest.raises(UserError, match="step 3 is NaN"):
        steps.by_step(np.where(np.arange(50) == 3, np.nan, scores), y, is_alarm)
    with pytest.raises(UserError, match="no steps"):
        steps.volumes(scores[:0], y[:0])
    with pytest.raises(UserError, match="window is -1"):
        steps.volumes(scores, y, -1)


@pytest.mark.parametrize("seed", AUPRO)
def test_metrics_by_pixel_are_those_of_the_public_implementations(seed):
    maps, truth = images(seed)
    got = pixels.by_pixel(maps, truth, maps > 0.9)
    assert got.aupro == pytest.approx(AUPRO[seed], **CLOSE)
    flat = truth.ravel(), maps.ravel()
    assert got.auroc == pytest.approx(sk.roc_auc_score(*flat), abs=1e-12)
    assert got.average_precision == pytest.approx(sk.average_precision_score(*flat), abs=1e-12)
    flagged = flat[0], flat[1] > 0.9
    expected = [of(*flagged) for of in (sk.precision_score, sk.recall_score, sk.f1_score)]
    assert got[3:6] == pytest.approx(expected, **CLOSE)


def aupro_by_hand(maps, masks, limit):
    """The area over every threshold, each region flagged on its own; masks [R, N, H, W]."""
    normal = ~masks.any(axis=0)
    points = [(0.0, 0.0)]
    for cut in np.unique(maps)[::-1]:
        flagged = maps >= cut
        points.append((flagged[normal].mean(), np.mean([flagged[mask].mean() for mask in masks])))
    fpr, overlap = np.array(points).T
    fine = np.unique(np.append(np.linspace(0, limit, 20001), fpr[fpr <= limit]))
    return np.trapezoid(np.interp(fine, fpr, overlap), fine) / limit


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_regions_count_alike_and_touch_at_corners_but_not_across_rows(limit):
    masks = np.zeros((3, 2, 8, 8), bool)
    masks[0, 0, 1, 1] = masks[0, 0, 2, 2] = True  # one region, by its corners
    masks[1, 0, 5:8, 5:8] = True
    masks[2, 1, 5:8, 5:8] = True  # at the same place of the next row: another region
    maps = np.random.default_rng(0).random((2, 8, 8)).astype(np.float32) + 0.3 * masks[1]
    got = pixels.by_pixel(maps, masks.any(axis=0), maps > 1, limit).aupro
    assert got == pytest.approx(aupro_by_hand(maps, masks, limit), abs=1e-4)


def test_maps_without_one_of_the_classes_with_one_pixel_and_of_steps():
    maps, truth = images(0)
    none = pixels.by_pixel(maps, truth & False, maps > 0.9)
    assert none.precision == 0
    assert none.fpr > 0
    assert np.isnan(np.array(none)[[0, 1, 2, 4, 5]]).all()
    everything = pixels.by_pixel(maps, truth | True, maps > 0.9)
    assert np.isnan([everything.auroc, everything.aupro, everything.fpr]).all()
    assert (everything.average_precision, everything.precision) == (1, 1)
    equal = pixels.by_pixel(np.ones_like(maps), truth, maps > 0.9)
    assert equal[:3] == pytest.approx((0.5, truth.mean(), 0.15))  # from (0, 0) to (1, 1), to .3
    one = pixels.by_pixel(np.ones((1, 1, 1)), *np.ones((2, 1, 1, 1), bool))
    assert (one.average_precision, one.recall) == (1, 1)
    perfect = pixels.by_pixel(truth.astype(np.float32), truth, truth)
    assert perfect == pytest.approx((1, 1, 1, 1, 1, 1, 0))
    by_step = pixels.by_pixel(*(of.reshape(3, -1) for of in (maps, truth, maps > 0.9)))
    assert by_step.auroc == pixels.by_pixel(maps, truth, maps > 0.9).auroc


def test_maps_that_cannot_be_measured_are_refused():
    maps, truth = images(0)
    with pytest.raises(UserError, match="row 2 holds NaN"):
        pixels.by_pixel(np.where(np.arange(3)[:, None, None] == 2, np.nan, maps), truth, truth)
    with pytest.raises(UserError, match="limit is 0"):
        pixels.by_pixel(maps, truth, truth, 0.0)
