// The browser of samples: filters and sorts what the page embeds, and shows one sample under its own address.
"use strict";

const { models, total, samples, pictures } = JSON.parse(document.getElementById("data").textContent);
const colors = JSON.parse(document.getElementById("colors").textContent);
const PAGE = 24; // cards added at a time
const PIXELATED_BELOW_PX = 320; // smaller pictures are shown enlarged, with their pixels crisp

const byId = (id) => document.getElementById(id);
const place = new Map(samples.map((sample, index) => [sample.key, index]));
const controls = byId("filters");
const dialog = byId("sample");
let found = samples; // what passes the filters, sorted
let shown = 0; // how many cards of it stand on the page

function element(name, attributes = {}, ...children) {
  const svg = ["svg", "image", "rect"].includes(name);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function rectangle([x1, y1, x2, y2], kind, color) {
  const position = { x: x1, y: y1, width: Math.max(x2 - x1, 0), height: Math.max(y2 - y1, 0) };
  const line = element("rect", { ...position, class: kind });
  if (color) line.setAttribute("stroke", color);
  return [element("rect", { ...position, class: "halo" }), line];
}

function picture(sample, chosen, label) {
  const { width, height } = sample;
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, class: "picture", role: "img", "aria-label": label });
  if (width < PIXELATED_BELOW_PX) svg.classList.add("pixelated");
  svg.append(element("image", { width, height, preserveAspectRatio: "none", href: pictures[sample.image] }));
  if (sample.visible) svg.append(...rectangle(sample.visible, "visible"));
  if (sample.truth) svg.append(...rectangle(sample.truth, "truth"));
  for (const model of chosen) {
    const box = sample.answers[model]?.box;
    if (box) svg.append(...rectangle(box, "prediction", colors[model]));
  }
  return svg;
}

function verdict(answer) {
  const text = answer.iou === null
    ? (answer.box ? "boxed, though nothing is meant" : "declined")
    : (answer.box ? `IoU ${answer.iou.toFixed(2)}` : "no box");
  return element("span", { class: answer.right ? "right" : "wrong" }, `${answer.right ? "✓" : "✗"} ${text}`);
}

function card(sample) {
  const chosen = chosenModels();
  const scores = chosen.filter((model) => sample.answers[model]).map((model) =>
    element("span", {}, models.length > 1 ? `${models[model]} ` : "", verdict(sample.answers[model])));
  return element("li", {}, element("a", { class: "card", href: `#${sample.key}` },
    picture(sample, chosen, `boxes for: ${sample.sent}`),
    element("q", {}, sample.sent),
    element("div", { class: "facts" }, ...scores)));
}

function column(sample, model) {
  const answer = sample.answers[model];
  const facts = [`${answer.tokens} tokens`, `${answer.latency_s.toFixed(2)} s`, ...(answer.cut ? ["cut off at the limit"] : [])];
  const reasoning = answer.error ? `request failed: ${answer.error}` : answer.reasoning || "(answers without reasoning)";
  return element("div", {},
    element("h3", {}, models[model]),
    picture(sample, [model], `${models[model]}: ${sample.sent}`),
    element("div", { class: "facts" }, verdict(answer), ...facts.map((fact) => element("span", {}, fact))),
    element("p", { class: "reasoning" }, reasoning),
    element("p", { class: "answer" }, answer.answer));
}

function chosenModels() {
  const boxes = [...controls.querySelectorAll("input[name=show]")];
  return boxes.length ? boxes.filter((box) => box.checked).map((box) => Number(box.value)) : [0];
}

function passes(sample, { split, outcome, type, text }) {
  if (split && sample.split !== split) return false;
  if (type && !sample.types.includes(type)) return false;
  if (outcome) {
    for (const rule of outcome.split(" ")) { // such as `0-wrong 2-right`: the first model wrong, the third right
      const [model, wanted] = rule.split("-");
      if (!sample.answers[model] || sample.answers[model].right !== (wanted === "right")) return false;
    }
  }
  if (!text) return true;
  const texts = [sample.sent, sample.key, ...sample.answers.map((answer) => answer?.reasoning ?? "")];
  return texts.some((one) => one.toLowerCase().includes(text.toLowerCase()));
}

function sorted(list, order) {
  if (!order) return list;
  const [model, direction] = order.split("-");
  const sign = direction === "up" ? 1 : -1;
  const iou = (sample) => sample.answers[model]?.iou ?? 2 * sign; // without an IoU: last
  return [...list].sort((a, b) => sign * (iou(a) - iou(b)) || place.get(a.key) - place.get(b.key));
}

function update() {
  const filters = Object.fromEntries(new FormData(controls));
  found = sorted(samples.filter((sample) => passes(sample, filters)), filters.order);
  const part = samples.length < total ? ` (this page holds ${samples.length} of ${total})` : "";
  byId("status").textContent = `${found.length} of ${samples.length} samples${part}`;
  byId("cards").replaceChildren();
  shown = 0;
  more();
}

function more() {
  byId("cards").append(...found.slice(shown, shown + PAGE).map(card));
  shown = Math.min(shown + PAGE, found.length);
  byId("more").hidden = shown >= found.length;
  byId("more").textContent = `Show ${Math.min(PAGE, found.length - shown)} more`;
}

function step(by) {
  const at = found.findIndex((sample) => `#${sample.key}` === decodeURIComponent(location.hash));
  const next = found[at + by];
  if (next) location.replace(`#${next.key}`);
}

function follow() { // the address decides which sample is open
  const sample = samples[place.get(decodeURIComponent(location.hash.slice(1)))];
  if (!sample) return dialog.close();
  const columns = chosenModels().filter((model) => sample.answers[model]).map((model) => column(sample, model));
  byId("sample-key").textContent = `${sample.key} · ${sample.types.join(", ")}`;
  byId("sample-sent").textContent = `“${sample.sent}”`;
  byId("sample-models").replaceChildren(...columns);
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}

controls.addEventListener("input", update);
controls.addEventListener("submit", (event) => event.preventDefault());
byId("more").addEventListener("click", more);
byId("previous").addEventListener("click", () => step(-1));
byId("next").addEventListener("click", () => step(1));
byId("close").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
dialog.addEventListener("close", () => history.replaceState(null, "", location.pathname + location.search));
window.addEventListener("hashchange", follow);
document.addEventListener("keydown", (event) => {
  if (dialog.open && event.key === "ArrowLeft") step(-1);
  else if (dialog.open && event.key === "ArrowRight") step(1);
  else if (!dialog.open && event.key === "/" && !event.target.matches("input, select")) {
    event.preventDefault();
    controls.elements.text.focus();
  }
});
update();
follow();
