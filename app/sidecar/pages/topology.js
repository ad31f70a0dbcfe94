"use strict";
// Draws /api/v1/topology again every two seconds. No library: topics and agents in columns, left to right, and below each agent what belongs to it.

const EVERY_MS = 2000;
const BOX = { width: 196, height: 52, side: 40, gap: 116, row: 88, top: 16 };
const SQUARE = { size: 13, gap: 3, perRow: 11 };
const KINDS = {
  topic: "topic", agent: "agent", table: "state", redis: "lookups", database: "reference data",
  dead_letters: "dead letters", retries: "waiting to be tried again",
};
const MARK = { ok: "", warn: "⚠ ", bad: "✖ " };

function make(name, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

const number = (value) => (value === null || value === undefined ? "–" : value.toLocaleString("en", { maximumFractionDigits: value < 10 ? 1 : 0 }));
const rate = (value) => (value === null ? "–" : `${number(value)}/s`);
const ms = (value) => (value === null ? "–" : `${number(value)} ms`);

// -- where everything is -------------------------------------------------------------------------

function columns(nodes, edges) {
  const column = new Map(nodes.filter((node) => !node.of).map((node) => [node.id, 0]));
  for (let round = 0; round < column.size; round++) {
    for (const edge of edges) {
      if (column.has(edge.source) && column.has(edge.target)) {
        column.set(edge.target, Math.max(column.get(edge.target), Math.min(column.get(edge.source) + 1, column.size)));
      }
    }
  }
  return column;
}

function heightOf(node) {
  if (node.of) return BOX.side;
  const rows = Math.ceil(node.partitions.length / SQUARE.perRow);
  return BOX.height + (rows ? rows * (SQUARE.size + SQUARE.gap) + 8 : 0);
}

function place(nodes, edges) {
  const column = columns(nodes, edges), boxes = new Map(), next = new Map();
  const ordered = nodes.filter((node) => !node.of).sort((a, b) => column.get(a.id) - column.get(b.id));
  for (const node of ordered) {
    const at = column.get(node.id);
    const into = edges.find((edge) => edge.target === node.id);
    const y = Math.max(next.get(at) ?? BOX.top, into ? boxes.get(into.source).y : 0);
    boxes.set(node.id, { x: 8 + at * (BOX.width + BOX.gap), y, height: heightOf(node) });
    let below = y + heightOf(node) + 28;
    for (const side of nodes.filter((other) => other.of === node.id)) {
      boxes.set(side.id, { x: 34 + at * (BOX.width + BOX.gap), y: below, height: BOX.side });
      below += BOX.side + 26;
    }
    next.set(at, Math.max(y + BOX.row, below));
  }
  return boxes;
}

// -- drawing -------------------------------------------------------------------------------------

function describe(node, edges) {
  const facts = Object.entries(node.facts).map(([name, value]) => `${name} ${typeof value === "number" ? number(value) : value}`);
  const flows = edges.filter((edge) => edge.target === node.id).map((edge) => `${rate(edge.per_s)} from ${edge.source}`);
  const troubles = node.partitions.filter((each) => each.says).map((each) => `partition ${each.partition}: ${each.says}`);
  return [`${KINDS[node.kind]} ${node.title}`, ...flows, ...facts, ...troubles].join("; ");
}

function drawNode(node, box, edges) {
  const width = node.of ? BOX.width - 26 : BOX.width;
  const words = describe(node, edges);
  const group = make("g", { class: `node ${node.kind} ${node.health}`, tabindex: "0", role: "img", "aria-label": words, "data-id": node.id },
    make("rect", { class: "frame", x: box.x, y: box.y, width, height: box.height, rx: node.kind === "agent" ? 12 : 4 }),
    make("text", { class: "kind", x: box.x + 10, y: box.y + 15 }, KINDS[node.kind] + (node.facts.keys === undefined ? "" : ` · ≤ ${number(node.facts.keys)} keys`)),
    make("text", { class: "title", x: box.x + 10, y: box.y + 32 }, MARK[node.health] + shortened(node.title, node.of ? 20 : 24)));
  node.partitions.forEach((each, index) => {
    const x = box.x + 10 + (index % SQUARE.perRow) * (SQUARE.size + SQUARE.gap);
    const y = box.y + 44 + Math.floor(index / SQUARE.perRow) * (SQUARE.size + SQUARE.gap);
    const title = make("title", {}, `partition ${each.partition}: ${rate(each.per_s)}, ${number(each.lag)} waiting${each.says ? `: ${each.says}` : ""}`);
    group.append(make("rect", { class: `partition ${each.health} ${each.hot ? "hot" : ""}`, x, y, width: SQUARE.size, height: SQUARE.size, rx: 2 }, title));
  });
  const tell = () => { document.getElementById("details").textContent = words; };
  group.addEventListener("focus", tell);
  group.addEventListener("mouseenter", tell);
  return group;
}

const shortened = (text, most) => (text.length > most ? `…${text.slice(1 - most)}` : text);

function drawEdge(edge, boxes) {
  const from = boxes.get(edge.source), to = boxes.get(edge.target);
  const isSide = to.x - from.x < BOX.width;
  const start = isSide ? [from.x + 14, from.y + from.height] : [from.x + BOX.width, from.y + 26];
  const end = isSide ? [to.x, to.y + to.height / 2] : [to.x - 7, to.y + 26];
  const path = isSide
    ? `M${start} V${end[1]} H${end[0]}`
    : `M${start} C${start[0] + 50},${start[1]} ${end[0] - 50},${end[1]} ${end}`;
  const stroke = 1 + Math.min(4, Math.log10(1 + (edge.per_s ?? 0)));
  const group = make("g", {}, make("path", { class: `edge ${edge.per_s ? "" : "idle"}`, d: path, "stroke-width": stroke, "marker-end": isSide ? "" : "url(#arrow)" }));
  const lines = isSide ? [] : [rate(edge.per_s), ...(edge.lag === null ? [] : [`${number(edge.lag)} waiting`]), ...(edge.p99_ms === null ? [] : [`p99 ${ms(edge.p99_ms)}`])];
  lines.forEach((line, index) => group.append(make("text", {
    class: `flow under ${index ? "" : "main"}`, x: (start[0] + end[0]) / 2, y: (start[1] + end[1]) / 2 - 8 + (index ? 14 + 15 * index : 0),
  }, line)));
  if (isSide) group.append(make("text", { class: "flow under", x: to.x + (BOX.width - 26) / 2, y: to.y - 5 }, rate(edge.per_s)));
  return group;
}

function draw({ nodes, edges }) {
  const boxes = place(nodes, edges);
  const all = [...boxes.values()];
  const width = Math.max(...all.map((box) => box.x)) + BOX.width + 8, height = Math.max(...all.map((box) => box.y + box.height)) + 12;
  const arrow = make("marker", { id: "arrow", viewBox: "0 0 8 8", refX: 6, refY: 4, markerWidth: 9, markerHeight: 9, markerUnits: "userSpaceOnUse", orient: "auto" },
    make("path", { class: "arrow", d: "M0,0 L8,4 L0,8 z" }));
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": "Topics, agents and stores" }, make("defs", {}, arrow));
  const owned = nodes.filter((node) => node.of && !edges.some((edge) => edge.target === node.id));
  for (const node of owned) svg.append(drawLink(boxes.get(node.of), boxes.get(node.id)));
  for (const edge of edges) svg.append(drawEdge(edge, boxes));
  for (const node of nodes) svg.append(drawNode(node, boxes.get(node.id), edges));
  keepFocus(() => document.getElementById("picture").replaceChildren(svg));
}

function drawLink(from, to) {
  return make("path", { class: "edge", d: `M${from.x + 14},${from.y + from.height} V${to.y + to.height / 2} H${to.x}`, "stroke-width": 1.5 });
}

function keepFocus(change) {
  const id = document.activeElement?.dataset?.id;
  change();
  if (id) document.querySelector(`[data-id="${CSS.escape(id)}"]`)?.focus();
}

// -- tables and state ----------------------------------------------------------------------------

function fill(id, rows) {
  document.querySelector(`#${id} tbody`).replaceChildren(...rows.map((cells) => {
    const row = document.createElement("tr");
    row.append(...cells.map(([text, kind]) => {
      const cell = document.createElement("td");
      cell.textContent = text;
      cell.className = kind ?? "";
      return cell;
    }));
    return row;
  }));
}

function tell({ app, worker, phase, nodes, edges }) {
  document.title = `${app}: topology`;
  document.getElementById("title").textContent = `${app} · worker ${worker}`;
  const troubles = nodes.flatMap((node) => [
    ...(node.health !== "ok" && !node.partitions.length ? [`${KINDS[node.kind]} (${node.title})${node.of ? ` of ${node.of}` : ""}`] : []),
    ...node.partitions.filter((each) => each.says).map((each) => `${node.title}-${each.partition}: ${each.says}`),
  ]);
  const worst = nodes.some((node) => node.health === "bad") ? "bad" : troubles.length || phase !== "running" ? "warn" : "ok";
  say(troubles.length ? `${MARK[worst]}${troubles.join("; ")}` : phase === "running" ? "All is well" : `⚠ ${phase}`, worst);
  fill("edges", edges.map((edge) => [[edge.source], [edge.target], [rate(edge.per_s), "number"], [edge.lag === null ? "" : number(edge.lag), "number"],
    [edge.p50_ms === null ? "" : ms(edge.p50_ms), "number"], [edge.p99_ms === null ? "" : ms(edge.p99_ms), "number"]]));
  fill("partitions", nodes.flatMap((node) => node.partitions.map((each) => [[node.title], [String(each.partition)], [rate(each.per_s), "number"],
    [number(each.lag), "number"], [each.says || "well", each.says ? each.health : ""]])));
}

function say(text, health) {
  const line = document.getElementById("health");
  if (line.textContent !== text) line.textContent = text; // a screen reader hears changes only
  line.className = health;
}

async function look() {
  try {
    const answer = await fetch("/api/v1/topology", { signal: AbortSignal.timeout(EVERY_MS * 2) });
    if (!answer.ok) throw new Error(`it answers ${answer.status}`);
    const topology = await answer.json();
    draw(topology);
    tell(topology);
  } catch (error) {
    say(`✖ The worker does not answer (${error.message}). The picture is old.`, "bad");
  } finally {
    setTimeout(look, EVERY_MS);
  }
}

look();
