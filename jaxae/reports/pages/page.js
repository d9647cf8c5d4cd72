"use strict";
// The threshold slider: what it moves is counted from the scores themselves, as the library counts.
(() => {
  const holder = document.getElementById("scores");
  if (!holder) return;
  const data = JSON.parse(holder.textContent);
  const floats = (text) => new Float32Array(
    Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
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
  const say = (id, value, text) => {
    const field = document.getElementById(id);
    field.dataset.exact = String(value);
    field.textContent = text;
  };
  const slider = document.getElementById("threshold");
  const lines = document.querySelectorAll("[data-follows=threshold]");
  const dots = document.querySelectorAll("[data-follows=rates]");
  const place = (value) => {
    const { low, high, log, left, width } = data.axis;
    const at = log ? Math.log10(Math.max(value, 10 ** low)) : value;
    return left + width * Math.min(1, Math.max(0, (at - low) / (high - low)));
  };

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
      `threshold ${cut.toPrecision(5)}, recall ${recall.toFixed(3)}, false alarms ${fpr.toFixed(3)}`);
    for (const line of lines) {
      line.setAttribute("x1", place(cut)); line.setAttribute("x2", place(cut));
    }
    for (const dot of dots) {
      const { left, top, width, height } = data.square;
      const pair = dot.dataset.chart === "roc" ? [fpr, recall] : [recall, precision];
      dot.setAttribute("cx", left + width * pair[0]);
      dot.setAttribute("cy", top + height * (1 - pair[1]));
    }
  };
  slider.addEventListener("input", move);
  document.getElementById("own").addEventListener("click", () => { slider.value = data.own; move(); });
  move();
})();
