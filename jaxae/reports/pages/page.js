"use strict";
// What both sliders use.
const floats = (text) => new Float32Array(
  Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
const say = (id, value, text) => {
  const field = document.getElementById(id);
  if (!field) return;  // of a run without labels
  field.dataset.exact = String(value);
  field.textContent = text;
};
// Where a value lies in the axes of a chart, in the units of its drawing.
const along = (value, [low, high], log) => {
  const at = log ? Math.log(Math.max(value, low) / low) / Math.log(high / low)
    : (value - low) / (high - low);
  return Math.min(1, Math.max(0, at));
};
const right = (box, value) => box.left + box.width * along(value, box.x, box.log);
const down = (box, value) => box.top + box.height * (1 - along(value, box.y, box.log_y));

// The threshold slider: what it moves is counted from the scores themselves, as the library counts.
(() => {
  const holder = document.getElementById("scores");
  if (!holder) return;
  const data = JSON.parse(holder.textContent);
  const normal = floats(data.normal), anomaly = floats(data.anomaly);
  const calibration = floats(data.calibration), cuts = floats(data.cuts);

  // How many of sorted values are above a cut.
  const above = (values, cut) => {
    let low = 0, high = values.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (values[middle] > cut) high = middle; else low = middle + 1;
    }
    return values.length - low;
  };
  const share = (part, whole) => whole ? part / whole : 0;
  const slider = document.getElementById("threshold");
  const marks = document.querySelectorAll("[data-chart]");

  const move = () => {
    const cut = cuts[Number(slider.value)];
    const tp = above(anomaly, cut), fp = above(normal, cut);
    const fn = anomaly.length - tp, tn = normal.length - fp;
    const precision = share(tp, tp + fp), recall = share(tp, tp + fn), fpr = share(fp, fp + tn);
    const alpha = (above(calibration, cut) + 1) / (calibration.length + 1);
    say("cut", cut, cut.toPrecision(5));
    say("tp", tp, tp); say("fp", fp, fp); say("fn", fn, fn); say("tn", tn, tn);
    say("precision", precision, precision.toFixed(4)); say("recall", recall, recall.toFixed(4));
    say("fpr", fpr, fpr.toFixed(4));
    const f1 = share(2 * tp, 2 * tp + fp + fn);
    say("f1", f1, f1.toFixed(4));
    const accuracy = share(tp + tn, normal.length + anomaly.length);
    say("accuracy", accuracy, accuracy.toFixed(4));
    say("alpha", alpha, alpha.toFixed(4));
    slider.setAttribute("aria-valuetext",
      `threshold ${cut.toPrecision(5)}, ` + (anomaly.length
        ? `recall ${recall.toFixed(3)}, false alarms ${fpr.toFixed(3)}`
        : `share flagged ${fpr.toFixed(3)}`));
    const points = { roc: [fpr, recall], pr: [recall, precision] };
    for (const mark of marks) {
      const chart = mark.dataset.chart, box = data.boxes[chart];
      const at = chart === "scores"
        ? { x1: right(box, cut), x2: right(box, cut), y1: box.top, y2: box.top + box.height }
        : { cx: right(box, points[chart][0]), cy: down(box, points[chart][1]) };
      for (const [name, value] of Object.entries(at)) mark.setAttribute(name, value);
    }
  };
  slider.addEventListener("input", move);
  document.getElementById("own").addEventListener("click", () => { slider.value = data.own; move(); });
  move();
})();

// The slider of a series: the numbers at each threshold are the library's own; a column of steps is
// marked if its largest score is above the threshold.
(() => {
  const holder = document.getElementById("steps");
  if (!holder) return;
  const data = JSON.parse(holder.textContent);
  const values = Object.entries(data.values).map(([id, text]) => [id, floats(text)]);
  const high = floats(data.high), cuts = floats(data.values["step-cut"]);
  const slider = document.getElementById("step-threshold");
  const line = document.getElementById("step-line"), bars = document.getElementById("step-bars");
  const written = (id, value) => Number.isNaN(value) ? "-" : id === "step-cut"
    ? value.toPrecision(5) : id === "step-alarms" ? value : value.toFixed(id === "step-delay" ? 1 : 4);

  const marked = (cut) => {
    const height = 0.8 * data.lane.height / data.lanes, runs = [];
    const top = data.lane.top + data.lane.height * (1 - 0.9 / data.lanes);
    const x = (edge) => (data.lane.left + data.lane.width * data.edges[edge]).toFixed(2);
    for (let i = 0; i < high.length; i++) {
      if (!(high[i] > cut)) continue;
      const from = i;
      while (i + 1 < high.length && high[i + 1] > cut) i++;
      runs.push(`M${x(from)} ${top}H${x(i + 1)}v${height}H${x(from)}z`);
    }
    return runs.join("");
  };
  const move = () => {
    const position = Number(slider.value), cut = cuts[position], y = down(data.box, cut);
    for (const [id, of_cuts] of values) say(id, of_cuts[position], written(id, of_cuts[position]));
    bars.setAttribute("d", marked(cut));
    const at = { x1: data.box.left, x2: data.box.left + data.box.width, y1: y, y2: y };
    for (const [name, value] of Object.entries(at)) line.setAttribute(name, value);
    const runs = document.getElementById("step-alarms").textContent;
    slider.setAttribute("aria-valuetext",
      `threshold ${cut.toPrecision(5)}, ${runs} runs of flagged steps`);
  };
  slider.addEventListener("input", move);
  document.getElementById("step-own").addEventListener("click",
    () => { slider.value = data.own; move(); });
  move();
})();
