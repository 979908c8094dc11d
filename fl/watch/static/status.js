"use strict";
// Draws what /events tells. Everything goes in as text, never as markup.

const at = (id) => document.getElementById(id);
const SHOWN_ROUNDS = 12;
let live = null, heardAt = 0;

const make = (tag, text, className) => {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  return element;
};
const draw = (tag, attributes, text) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
};

const percent = (fraction) => fraction === null ? "–" : (100 * fraction).toFixed(2) + "%";
const number = (value) => value === null ? "–" : value.toFixed(3);
const seconds = (value) => value < 1 ? Math.round(1000 * value) + " ms"
  : value < 120 ? value.toFixed(1) + " s" : Math.floor(value / 60) + " min " + Math.round(value % 60) + " s";
const bytes = (count) => {
  let unit = 0;
  while (count >= 999.5 && unit < 4) { count /= 1000; unit += 1; }
  return (unit ? count.toPrecision(3) : count) + " " + ["B", "kB", "MB", "GB", "TB"][unit];
};
const SAID = {"deadline": "too late"};
const words = (name) => SAID[name] || name.replaceAll("-", " ");
const reasons = (counts) => Object.entries(counts).sort((a, b) => b[1] - a[1])
  .map(([reason, count]) => count + " " + words(reason)).join(", ");

function showPhases(session, passed) {
  const times = new Map(session.phases.map((phase) => [phase.name, phase]));
  at("phases").replaceChildren(...session.expected.map((name) => {
    const phase = times.get(name);
    const running = phase !== undefined && phase.running;
    const last = session.phases.length && session.phases[session.phases.length - 1].name === name;
    const failed = session.outcome === "aborted" && last;
    const item = make("li", undefined, failed ? "failed" : running ? "running" : phase ? "done" : "");
    item.append(make("span", words(name)));
    item.append(make("span", !phase ? "to come" : seconds(phase.seconds + (running ? passed : 0))
      + (running && session.received + session.pending ? ", " + session.received + " in" : "")));
    if (running) item.setAttribute("aria-current", "step");
    return item;
  }));
}

function showLive() {
  if (!live) return;
  const session = live.session, traffic = session.traffic;
  const passed = (performance.now() - heardAt) / 1000;
  document.title = live.run + ": round " + live.round + " of " + live.total_rounds;
  at("run").textContent = live.run;
  at("state").textContent = live.state;
  at("state").className = "pill" + (live.state === "waiting" ? "" : " good");
  at("round").textContent = live.round || "–";
  at("total").textContent = live.total_rounds;
  at("progress").max = Math.max(live.total_rounds, 1);
  at("progress").value = live.round_seconds === null ? live.round : live.round - 1;
  const tiles = [
    ["Accuracy", percent(live.accuracy), live.loss === null ? "" : "loss " + number(live.loss)],
    ...(live.epsilon_budget === null ? [] : [["Epsilon", number(live.epsilon ?? 0),
      "of " + live.epsilon_budget + (live.delta === null ? "" : ", at delta " + live.delta)]]),
    ["Survivors", session.survivors, "of " + session.invited + ", " + session.threshold + " needed"],
    ["Pending", session.pending, session.needed > session.received ? session.needed - session.received + " more needed" : ""],
    ["Connected", session.connected, [
      live.waiting_clients ? live.waiting_clients + " waiting" : "", live.absent_clients ? live.absent_clients + " absent" : "",
      traffic.reconnects ? traffic.reconnects + " came back" : "",
    ].filter(Boolean).join(", ")],
    ["Received", bytes(traffic.bytes_up), traffic.frames_up + " frames"],
    ["Sent", bytes(traffic.bytes_down), traffic.frames_down + " frames"],
  ];
  at("tiles").replaceChildren(...tiles.map(([name, value, note]) => {
    const tile = make("div"), shown = make("dd", value);
    // A space of its own, so that figure and note are two words to whoever listens.
    shown.append(" ", make("small", note));
    tile.append(make("dt", name), shown);
    return tile;
  }));
  showPhases(session, passed);
  at("dropped").textContent = [
    session.aborted ? "Aborted: " + words(session.aborted) + "." : "",
    Object.keys(session.dropped).length ? "Dropped: " + reasons(session.dropped) + "." : "",
  ].join(" ").trim();
  at("declined").replaceChildren(...session.declines.map(([told, count]) => make("li", count + " declined: " + told)));
  const ended = live.totals.sessions, refused = reasons(live.totals.refusals);
  at("totals").textContent = "Since the server started: " + ended.completed + " sessions completed, " + ended.aborted + " aborted"
    + (refused ? "; connections refused: " + refused : "");
}

function showCurve(rounds) {
  const points = rounds.filter((round) => round.accuracy !== null);
  at("no-curve").hidden = points.length > 0;
  at("curve").toggleAttribute("hidden", points.length === 0);
  if (!points.length) return;
  const [left, right, top, bottom] = [70, 624, 16, 208];
  const values = points.map((point) => point.accuracy);
  // Round ticks around the data, in tenths, or fifths where it spans more than half.
  const tick = Math.max(...values) - Math.min(...values) > 0.5 ? 0.2 : 0.1;
  const low = Math.floor(Math.min(...values) / tick + 1e-9) * tick;
  const high = Math.max(Math.ceil(Math.max(...values) / tick - 1e-9) * tick, low + tick);
  const first = points[0].number, last = Math.max(points[points.length - 1].number, first + 1);
  const x = (round) => left + (right - left) * (round - first) / (last - first);
  const y = (value) => bottom - (bottom - top) * (value - low) / (high - low);
  const parts = [];
  for (let step = 0; step <= Math.round((high - low) / tick); step += 1) {
    const value = low + step * tick, height = y(value).toFixed(1);
    parts.push(draw("line", {x1: left, x2: right, y1: height, y2: height, class: "grid"}));
    parts.push(draw("text", {x: left - 8, y: +height + 5, "text-anchor": "end"}, Math.round(100 * value) + "%"));
  }
  const every = Math.max(1, Math.ceil((last - first) / 8));
  for (let round = first; round <= last; round += every)
    parts.push(draw("text", {x: x(round).toFixed(1), y: 232, "text-anchor": "middle"}, round));
  const places = points.map((point) => x(point.number).toFixed(1) + "," + y(point.accuracy).toFixed(1));
  parts.push(draw("polyline", {points: places.join(" "), class: "curve"}));
  const newest = points[points.length - 1];
  const [cx, cy] = places[places.length - 1].split(",");
  parts.push(draw("circle", {cx, cy, r: 4.5, class: "dot"}));
  parts.push(draw("text", {x: Math.max(+cx, left + 60), y: +cy + (+cy < top + 24 ? 24 : -12), "text-anchor": "end", class: "value"},
    percent(newest.accuracy)));
  at("curve").replaceChildren(...parts);
  at("curve").setAttribute("aria-label", "Test accuracy by round; " + percent(newest.accuracy) + " after round " + newest.number);
}

function showRounds(rounds) {
  const isPrivate = rounds.some((round) => round.epsilon !== null);
  at("epsilon-head").hidden = !isPrivate;
  showCurve(rounds);
  at("rounds").replaceChildren(...rounds.slice(-SHOWN_ROUNDS).reverse().map((round) => {
    const row = make("tr", undefined, round.aborted ? "failed" : "");
    const without = round.aborted ? "aborted: " + words(round.aborted) : reasons(round.dropped);
    for (const text of [round.number, round.included + " of " + round.invited, percent(round.accuracy), number(round.loss),
      percent(round.noise), ...(isPrivate ? [number(round.epsilon)] : []), seconds(round.seconds), bytes(round.bytes_up), bytes(round.bytes_down)]) row.append(make("td", text));
    row.append(make("td", without, "text"));
    return row;
  }));
}

function connect() {
  const source = new EventSource("events");
  const say = (text, kind) => { at("link").textContent = text; at("link").className = "pill " + kind; };
  source.onopen = () => say("live", "good");
  source.onerror = () => {
    say("reconnecting", "warn");
    // After an answer that is no stream the browser does not try again by itself.
    if (source.readyState === EventSource.CLOSED) { source.close(); setTimeout(connect, 2000); }
  };
  source.addEventListener("live", (event) => { live = JSON.parse(event.data); heardAt = performance.now(); showLive(); });
  source.addEventListener("rounds", (event) => showRounds(JSON.parse(event.data)));
}

connect();
// The clock of the running phase goes on between two messages, but not while nobody knows whether it does.
setInterval(() => { if (at("link").textContent === "live") showLive(); }, 500);
