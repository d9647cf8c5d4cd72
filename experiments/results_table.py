"""The table of docs/results.md from run folders, and a plot of ALOCC's AUROC per epoch and seed.

    python -m experiments.results_table [--runs runs] [--write docs/results.md]

The numbers of jaxae are read from `report.json` files: the mean over the runs with the same name,
one per seed, and the sample standard deviation; in brackets, if available, the 95 % interval over
test rows of one run, averaged over the seeds. The original numbers were measured with the original
frameworks (TensorFlow 2.21 with Keras 3.15, PyTorch 2.13) on the same files on two CPU cores.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import NamedTuple

from jaxae.reports import plots
from jaxae.reports.plots.files import LAST
from jaxae.storage.disk import write_text

BY = ", epoch by "  # followed by the criterion that selects the epoch, unless it is the last
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


class Row(NamedTuple):
    """One line of the table."""

    system: str
    run: str  # name of the experiment
    metric: str
    key: str  # in report.json
    original: str
    percent: bool = False


S0 = "S0 conv, Keras lab (MNIST)"
S1 = "S1 conv 7x7, PyTorch article (MNIST)"
S2E, S2F, S2D = "S2 dense (ECG5000)", "S2 dense (Fashion-MNIST)", "S2 denoising (Fashion-MNIST)"
CV = "dense, CV+ at 5 % (ECG5000)"
S3 = "S3 dense (Fashion-MNIST, class 0 against 1)"
S4 = "S4 ALOCC (MNIST, digit 1)"
ROWS = (
    Row("digits (bundled)", "digits_conv", "AUROC, 0 against the rest", "auroc", "-"),
    Row(S0, "mnist_conv", "training MSE", "mse_train", ".00323"),
    Row(S0, "mnist_conv", "test MSE", "mse_test", ".00314"),
    Row(S0, "mnist_conv", "flagged, normal", "flagged_normal", "3.9 %", True),
    Row(S0, "mnist_conv", "flagged, rotated 90", "flagged_rotation", "57 %", True),
    Row(S0, "mnist_conv", "flagged, negative", "flagged_negative", "100 %", True),
    Row(S0, "mnist_conv", "flagged, noise .05 rescaled", "flagged_noise_rescaled", "100 %", True),
    Row(S0, "mnist_conv", "flagged, noise .05 clipped", "flagged_noise", "89 %", True),
    Row(S0, "mnist_conv", "AUROC rotated, MAE", "auroc_rotation", ".865"),
    Row(S0, "mnist_conv", "AUROC rotated, MSE", "auroc_rotation_mse", ".923"),
    Row("S0, latent 2", "mnist_conv_2d", "training MSE", "mse_train", ".0438"),
    Row("S0, latent 2", "mnist_conv_2d", "AUROC rotated, MAE", "auroc_rotation", ".904"),
    Row(S1, "mnist_conv_latent", "training MSE", "train_loss", ".0075"),
    Row(S1, "mnist_conv_latent", "validation MSE", "valid_loss", ".0074"),
    Row(S1, "mnist_conv_latent", "threshold, per image", "threshold", ".0120"),
    Row(S1, "mnist_conv_latent", "flagged, normal", "flagged_normal", "13.1 %", True),
    Row(S1, "mnist_conv_latent", "flagged, rotated 90", "flagged_rotation", "91.8 %", True),
    Row(S1, "mnist_conv_latent", "threshold, batch means", "batch_threshold", ".00798 ± .00006"),
    Row(
        S1,
        "mnist_conv_latent",
        "flagged, normal, by it",
        "flagged_normal_batch_threshold",
        "36 %",
        True,
    ),
    Row(S1, "mnist_conv_latent", "AUROC rotated", "auroc_rotation", ".965 ± .012"),
    Row(S1, "mnist_conv_latent", "MSE after denoising .2", "mse_denoised_to_clean", ".0256"),
    Row(S2F, "fmnist_dense", "validation MSE", "valid_loss", ".00880 ± .00001"),
    Row(S2D, "fmnist_denoise", "MSE denoised to clean", "mse_denoised_to_clean", ".0071 ± .0004"),
    Row(S2E, "ecg_dense", "accuracy", "accuracy", ".9366 ± .0011"),
    Row(
        S2E,
        "ecg_dense",
        "precision, normal = positive",
        "precision_normal_positive",
        ".9875 ± .0017",
    ),
    Row(S2E, "ecg_dense", "recall, normal = positive", "recall_normal_positive", ".9014 ± .0033"),
    Row(S2E, "ecg_dense", "AUROC MAE", "auroc", ".9546 ± .0032"),
    Row(CV, "ecg_cross", "AUROC", "auroc", "-"),
    Row(CV, "ecg_cross", "recall", "recall", "-", True),
    Row(CV, "ecg_cross", "false-positive rate (proved: 10.8 %)", "fpr", "-", True),
    Row(S3, "fmnist_one_class", "precision", "precision", ".868 ± .006"),
    Row(S3, "fmnist_one_class", "recall", "recall", ".899 ± .009"),
    Row(S3, "fmnist_one_class", "AUROC", "auroc", ".9344 ± .0022"),
    Row(S4, "mnist_alocc", "AUROC, last epoch", "auroc", ".9973 (error, weight 10)"),
    Row(S4, "mnist_alocc", "AUROC of D(R(x)), last epoch", "auroc_d_of_r", ".51, .40 (weight 10)"),
    Row(
        S4 + ", faithful",
        "mnist_alocc_faithful",
        "AUROC of D(R(x)), last epoch",
        "auroc",
        ".459, .966, .862",
    ),
    Row(
        S4 + ", faithful",
        "mnist_alocc_faithful",
        "the same, label-free epoch",
        "label_free_auroc",
        "-",
    ),
    Row(
        S4 + ", faithful",
        "mnist_alocc_faithful",
        "the same, oracle epoch (test F1)",
        "oracle_auroc",
        ".984 ± .012",
    ),
    Row(
        S4 + ", faithful",
        "mnist_alocc_faithful",
        "AUROC of the error, last epoch",
        "auroc_mse",
        ".983 ± .004",
    ),
)


def read_reports(runs: Path) -> dict[str, list[dict]]:
    """The reports of finished runs in a folder, by experiment name, ordered by seed.

    Runs that select an epoch have a name of their own: "NAME, epoch by test labels (oracle)".
    """
    by_name: dict[str, list[dict]] = {}
    for path in sorted(runs.glob("*/report.json")):
        report = json.loads(path.read_text())
        by = report.get("selected_by", LAST)
        name = report["name"] + (f"{BY}{by}" if by != LAST else "")
        by_name.setdefault(name, []).append(report)
    return {name: sorted(reports, key=lambda r: r["seed"]) for name, reports in by_name.items()}


def _digits(value: float, percent: bool) -> str:
    if percent:
        return f"{100 * value:.1f} %"
    text = f"{value:.5f}" if abs(value) < 0.05 else f"{value:.4f}"
    return text.replace("0.", ".", 1) if abs(value) < 1 else text


def _spread(values: list[float], percent: bool) -> str:
    mean = _digits(statistics.fmean(values), percent)
    if len(values) == 1:
        return f"{mean} (1 seed)"
    return f"{mean} ± {_digits(statistics.stdev(values), percent)} ({len(values)} seeds)"


def _of_rows(intervals: list[list[float] | None]) -> str:
    """The 95 % interval over test rows of one run, its limits averaged over the seeds."""
    if not intervals or None in intervals:
        return ""
    low, high = (_digits(statistics.fmean(ends), False) for ends in zip(*intervals, strict=True))
    return f" [{low}, {high}]"


def table(by_name: dict[str, list[dict]]) -> str:
    """The table in Markdown, without experiments that have no run."""
    lines = [
        "| system | metric | original | jaxae | command | wall time |",
        "|---|---|---|---|---|---|",
    ]
    shown = None
    for row in (*ROWS, *_selecting(by_name)):
        reports = [report for report in by_name.get(row.run, []) if row.key in report]
        if not reports:
            continue
        command = wall = system = ""
        if row.run != shown:
            module, faithful, _ = row.run.partition(BY)[0].partition("_faithful")
            flag = " --variant faithful" if faithful else ""
            command = f"`python -m experiments.{module}{flag}`"
            wall = f"{statistics.median(report['wall_s'] for report in reports):.0f} s"
            system, shown = row.system, row.run
        values = _spread([report[row.key] for report in reports], row.percent)
        values += _of_rows([report.get(f"{row.key}_interval") for report in reports])
        lines.append(
            f"| {system} | {row.metric} | {row.original} | {values} | {command} | {wall} |"
        )
    return "\n".join(lines)


def _selecting(by_name: dict[str, list[dict]]) -> list[Row]:
    """The rows of runs that select an epoch; they have no original number."""
    return [
        row._replace(system=row.system + run.removeprefix(row.run), run=run, original="-")
        for run in by_name
        if BY in run
        for row in ROWS
        if row.run == run.partition(BY)[0]
    ]


def write(path: Path, text: str) -> None:
    """Put the table between the markers of a Markdown file.

    Raises:
      SystemExit: the file has no markers.
    """
    before, begin, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{path} has no {BEGIN} ... {END}; add both lines where the table goes")
    write_text(path, f"{before}{BEGIN}\n{text}\n{END}{after}")


def main() -> None:
    """Print the table, or write it into a file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of run folders")
    parser.add_argument("--write", type=Path, help="Markdown file with the table's markers")
    args = parser.parse_args()
    text = table(read_reports(args.runs))
    print(text)
    alocc = sorted(args.runs.glob("mnist_alocc*/report.json"))
    if alocc:
        curves = args.runs / "mnist_alocc_over_seeds.png"
        plots.training_curves_over_seeds([path.parent for path in alocc], curves)
        print(f"AUROC per epoch and seed: {curves}")
    if args.write:
        write(args.write, text)


if __name__ == "__main__":
    main()
