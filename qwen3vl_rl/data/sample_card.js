// Draws one sample: its picture with the boxes, and a model's answer. Boxes are xyxy in pixels of the picture.
"use strict";

const PIXELATED_BELOW_PX = 320; // smaller pictures are shown enlarged, with their pixels crisp

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

// `sample`: width, height, truth, visible. `answers`: [answer, color] of the models whose boxes are drawn.
function drawPicture(sample, url, answers, label) {
  const { width, height } = sample;
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, class: "picture", role: "img", "aria-label": label });
  if (width < PIXELATED_BELOW_PX) svg.classList.add("pixelated");
  svg.append(element("image", { width, height, preserveAspectRatio: "none", href: url }));
  if (sample.visible) svg.append(...rectangle(sample.visible, "visible"));
  if (sample.truth) svg.append(...rectangle(sample.truth, "truth"));
  for (const [answer, color] of answers) {
    if (answer?.box) svg.append(...rectangle(answer.box, "prediction", color));
  }
  return svg;
}

function drawVerdict(answer) {
  const text = answer.iou === null
    ? (answer.box ? "false box: nothing fits" : answer.right ? "declined" : "neither boxed nor declined")
    : (answer.box ? `IoU ${answer.iou.toFixed(2)}` : "no box");
  return element("span", { class: answer.right ? "right" : "wrong" }, `${answer.right ? "✓" : "✗"} ${text}`);
}

// One model's answer with its picture. Tokens and latency are shown if they are known.
function drawAnswer(sample, url, answer, color, label) {
  const facts = [];
  if (answer.tokens !== null) facts.push(`${answer.tokens} tokens`);
  if (answer.latency_s !== null) facts.push(`${answer.latency_s.toFixed(2)} s`);
  if (answer.cut) facts.push("cut off at the token limit");
  const reasoning = answer.error ? `request failed: ${answer.error}` : answer.reasoning || "(answers without reasoning)";
  return [
    drawPicture(sample, url, [[answer, color]], label),
    element("div", { class: "facts" }, drawVerdict(answer), ...facts.map((fact) => element("span", {}, fact))),
    element("p", { class: "reasoning" }, reasoning),
    element("p", { class: "answer" }, answer.answer),
  ];
}
