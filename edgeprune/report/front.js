"use strict";
(() => {
  const { axes, points } = JSON.parse(document.getElementById("points").textContent);
  const plot = document.getElementById("plot");
  if (!plot || !points.length || !axes.length) return;
  document.getElementById("explore").hidden = false;
  const across = document.getElementById("across"), up = document.getElementById("up"), told = document.getElementById("told");
  for (const select of [across, up]) axes.forEach((name, k) => select.add(new Option(name, String(k))));
  up.value = String(Math.min(1, axes.length - 1));
  const W = 760, H = 420, LEFT = 70, RIGHT = 20, TOP = 15, BOTTOM = 45;
  const make = (name, attributes, text) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const short = (value) => (value === null || value === undefined ? "–" : Number(value.toPrecision(4)).toString());
  const scale = (values, from, to) => {
    let low = Math.min(...values), high = Math.max(...values);
    if (low === high) { low -= Math.abs(low) * 0.05 + 1e-9; high += Math.abs(high) * 0.05 + 1e-9; }
    const margin = 0.04 * (high - low);
    low -= margin; high += margin;
    return { low, high, at: (value) => from + ((value - low) / (high - low)) * (to - from) };
  };
  const tell = (point) => {
    const lines = axes.map((name, k) => `${name}: ${short(point.v[k])}`);
    const how = Object.entries(point.p).map(([name, value]) => `${name} ${value}`).join(", ");
    told.replaceChildren();
    const head = document.createElement("strong");
    head.textContent = `Trial ${point.n}`;
    told.append(head, `: ${lines.join("; ")}. Sampled: ${how}.`);
  };
  const draw = () => {
    const i = Number(across.value), j = Number(up.value);
    const shown = points.filter((point) => Number.isFinite(point.v[i]) && Number.isFinite(point.v[j]));
    plot.replaceChildren();
    if (!shown.length) return;
    const x = scale(shown.map((point) => point.v[i]), LEFT, W - RIGHT), y = scale(shown.map((point) => point.v[j]), H - BOTTOM, TOP);
    for (let k = 0; k <= 4; k += 1) {
      const gx = x.low + ((x.high - x.low) * k) / 4, gy = y.low + ((y.high - y.low) * k) / 4;
      plot.append(make("line", { class: "grid", x1: x.at(gx), x2: x.at(gx), y1: TOP, y2: H - BOTTOM }));
      plot.append(make("line", { class: "grid", x1: LEFT, x2: W - RIGHT, y1: y.at(gy), y2: y.at(gy) }));
      plot.append(make("text", { x: x.at(gx), y: H - BOTTOM + 16, "text-anchor": "middle" }, short(gx)));
      plot.append(make("text", { x: LEFT - 8, y: y.at(gy) + 4, "text-anchor": "end" }, short(gy)));
    }
    plot.append(make("text", { x: (LEFT + W - RIGHT) / 2, y: H - 8, "text-anchor": "middle" }, axes[i]));
    plot.append(make("text", { x: 14, y: (TOP + H - BOTTOM) / 2, "text-anchor": "middle", transform: `rotate(-90 14 ${(TOP + H - BOTTOM) / 2})` }, axes[j]));
    const front = shown.filter((point) => point.kind !== "other").sort((a, b) => a.v[i] - b.v[i] || a.v[j] - b.v[j]);
    let least = Infinity, path = "";
    for (const point of front) {
      if (point.v[j] >= least) continue;
      path += path ? ` H ${x.at(point.v[i])} V ${y.at(point.v[j])}` : `M ${x.at(point.v[i])} ${y.at(point.v[j])}`;
      least = point.v[j];
    }
    if (path) plot.append(make("path", { class: "step", d: path }));
    for (const point of [...shown.filter((one) => one.kind === "other"), ...front]) {
      const kind = point.kind === "other" && !point.feasible ? "infeasible" : point.kind;
      const attributes = { class: kind, cx: x.at(point.v[i]), cy: y.at(point.v[j]), r: point.kind === "other" ? 3 : 5.5 };
      if (point.kind !== "other") {
        attributes.tabindex = "0";
        attributes.role = "img";
        attributes["aria-label"] = `Trial ${point.n}: ${axes[i]} ${short(point.v[i])}, ${axes[j]} ${short(point.v[j])}`;
      }
      const circle = make("circle", attributes);
      for (const event of ["mouseenter", "focus", "click"]) circle.addEventListener(event, () => tell(point));
      plot.append(circle);
    }
  };
  across.addEventListener("change", draw);
  up.addEventListener("change", draw);
  draw();
})();
