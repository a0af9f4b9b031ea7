// The browser of samples: filters and sorts what the page embeds, and shows one sample under its own address.
"use strict";

const { models, total, samples, differing, pictures } = JSON.parse(document.getElementById("data").textContent);
const colors = JSON.parse(document.getElementById("colors").textContent);
const PAGE = 24; // cards added at a time
const PAGE_DIFFERING = 8;

const byId = (id) => document.getElementById(id);
const place = new Map(samples.map((sample, index) => [sample.key, index]));
const controls = byId("filters");
const dialog = byId("sample");
const everyModel = models.map((_, model) => model);
let found = samples; // what passes the filters, sorted
let browsed = samples; // the list whose cards the arrow keys step through

function card(sample, chosen) {
  const scores = chosen.filter((model) => sample.answers[model]).map((model) =>
    element("span", {}, models.length > 1 ? `${models[model]} ` : "", drawVerdict(sample.answers[model])));
  const answers = chosen.map((model) => [sample.answers[model], colors[model]]);
  return element("li", {}, element("a", { class: "card", href: `#${sample.key}` },
    drawPicture(sample, pictures[sample.image], answers, `boxes for: ${sample.sent}`),
    element("q", {}, sample.sent),
    element("div", { class: "facts" }, ...scores)));
}

function column(sample, model) {
  const label = `${models[model]}: ${sample.sent}`;
  return element("div", {},
    element("h3", {}, models[model]),
    ...drawAnswer(sample, pictures[sample.image], sample.answers[model], colors[model], label));
}

function chosenModels() {
  const boxes = [...controls.querySelectorAll("input[name=show]")];
  return boxes.length ? boxes.filter((box) => box.checked).map((box) => Number(box.value)) : [0];
}

function passes(sample, { split, outcome, type, text }) {
  if (split && sample.split !== split) return false;
  if (type && !sample.types.includes(type)) return false;
  if (outcome === "differ") {
    if (new Set(sample.answers.filter(Boolean).map((answer) => answer.right)).size < 2) return false;
  } else if (outcome) {
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
  fill(byId("cards"), byId("more"), found, chosenModels(), PAGE);
}

// Shows the first cards of a list. The button adds the next ones and moves the focus to them.
function fill(cards, button, list, chosen, page) {
  let shown = 0;
  const more = () => {
    const added = list.slice(shown, shown + page).map((sample) => card(sample, chosen));
    cards.append(...added);
    shown += added.length;
    button.hidden = shown >= list.length;
    button.textContent = `Show ${Math.min(page, list.length - shown)} more`;
    return added;
  };
  cards.replaceChildren();
  cards.onclick = () => { browsed = list; };
  button.onclick = () => more()[0].firstChild.focus();
  more();
}

function step(by) {
  const at = browsed.findIndex((sample) => `#${sample.key}` === decodeURIComponent(location.hash));
  const next = browsed[at + by];
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
if (byId("differing-cards")) {
  const list = differing.map((index) => samples[index]);
  fill(byId("differing-cards"), byId("more-differing"), list, everyModel, PAGE_DIFFERING);
}
follow();
