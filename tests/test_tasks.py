import numpy as np
import pytest
from scipy import stats
from scipy.special import expit, logit
from sklearn.metrics import roc_auc_score

from jaxae.errors import UserError
from jaxae.stats import intervals
from jaxae.stats.intervals.tasks import Task, over_tasks


def ranking(seeds=1, n=40, m=15, seed=0):
    """Scores [S, N] with ties, y [N], ids and sides."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n + m) < m)
    scores = (rng.integers(0, 9, (seeds, n + m)) + 3 * y).astype(np.float32)
    return Task(scores, y, np.arange(n + m), y.astype(int))


def logit_interval(value, variance, degrees):
    reach = stats.t.ppf(0.975, degrees) * np.sqrt(variance) / (value * (1 - value))
    return expit(logit(value) + np.array([-reach, reach]))


def test_of_one_task_and_seed_it_is_delongs_interval_but_for_t():
    task = ranking(n=4000, m=1500)
    found = over_tasks([task])
    delongs = intervals.report(task.scores[0], task.y, task.y)["auroc_interval"]
    np.testing.assert_allclose(found.interval, delongs, rtol=1e-4)
    assert np.isnan(found.seeds_std)


def test_of_one_task_it_is_the_spread_over_its_seeds_and_rows():
    task = ranking(seeds=4)
    found = over_tasks([task])
    areas = [roc_auc_score(task.y, s) for s in task.scores]
    np.testing.assert_allclose(found.mean, np.mean(areas))
    np.testing.assert_allclose(found.seeds_std, np.std(areas, ddof=1))
    a, b = task.scores[:, task.y, None], task.scores[:, None, ~task.y]
    wins = ((a > b) + 0.5 * (a == b)).mean(axis=0)  # of each anomaly over each normal
    of_rows = [np.var(wins.mean(k), ddof=1) / wins.shape[1 - k] for k in (0, 1)]
    parts = np.array([np.var(areas, ddof=1) / 4, *of_rows])
    degrees = parts.sum() ** 2 / np.sum(parts**2 / [3, 39, 14])
    expected = logit_interval(np.mean(areas), parts.sum(), degrees)
    np.testing.assert_allclose(found.interval, expected)


def test_the_order_of_rows_and_tasks_does_not_count():
    tasks = []
    for seed in range(3):
        row = np.arange(55) + 30 * seed
        tasks.append(ranking(2, seed=seed)._replace(id=row, stratum=row % 3))
    mixed = []
    for task in tasks[::-1]:
        order = np.random.default_rng(1).permutation(55)
        mixed.append(Task(task.scores[::-1, order], *(part[order] for part in task[1:])))
    one, other = over_tasks(tasks), over_tasks(mixed)
    np.testing.assert_allclose(one.interval, other.interval, rtol=1e-12)
    np.testing.assert_allclose(one[:2], other[:2], rtol=1e-12)


def test_the_same_task_twice_says_no_more_than_once():
    task = ranking(3)
    np.testing.assert_allclose(over_tasks([task] * 2).interval, over_tasks([task]).interval)
    # With rows of its own it does.
    other = task._replace(id=task.id + 100, stratum=task.stratum + 2)
    apart = over_tasks(
        [task._replace(scores=task.scores[:1]), other._replace(scores=other.scores[:1])]
    )
    alone = over_tasks([task._replace(scores=task.scores[:1])])
    assert np.ptp(apart.interval) < 0.8 * np.ptp(alone.interval)


def test_flawless_tasks_are_not_certain():
    task = ranking()
    flawless = task._replace(scores=task.y[None].astype(np.float32))
    low = intervals.flawless(40, 15).auroc
    np.testing.assert_allclose(over_tasks([flawless]).interval, [low, 1])
    worst = flawless._replace(scores=-flawless.scores)
    np.testing.assert_allclose(over_tasks([worst]).interval, [0, 1 - low])


def one_vs_rest(rng, classes=4, size=60, seeds=3, shift=1.5, between=0.25):
    """Each class against the rest on shared rows; a row's difficulty is shared by all tasks."""
    label = np.repeat(np.arange(classes), size)
    hard = rng.normal(size=label.size)
    tasks = []
    for k in range(classes):
        own = rng.normal(size=(seeds, label.size))
        moved = between * rng.normal(size=(seeds, 1))
        y = label != k
        scores = 0.8**0.5 * hard + 0.2**0.5 * own + y * (shift + moved)
        tasks.append(Task(scores.astype(np.float32), y, np.arange(label.size), label))
    return tasks


def test_the_mean_over_tasks_is_covered_as_often_as_stated():
    rng = np.random.default_rng(0)
    expected = stats.norm.cdf(1.5 / np.sqrt(2 + 0.25**2))
    times = 400
    found = [over_tasks(one_vs_rest(rng)).interval for _ in range(times)]
    covered = np.mean([low <= expected <= high for low, high in found])
    # Errs to the safe side, and not by much.
    assert 0.95 - 3 * np.sqrt(0.05 * 0.95 / times) < covered < 0.995


@pytest.mark.parametrize(
    ("tasks", "says"),
    [
        ([], "there are 0 tasks"),
        ([ranking(2), ranking(3)], "all need the same number of seeds"),
        ([ranking()._replace(y=np.zeros(55, bool))], "55 normal and 0 anomalous rows"),
        ([ranking()._replace(scores=np.full((1, 55), np.nan, np.float32))], "NaN score"),
    ],
)
def test_tasks_without_an_interval(tasks, says):
    with pytest.raises(UserError, match=says):
        over_tasks(tasks)
