// What every view needs: words, scales, axes, lines of spectra, and the controls that several views have.
//
// A view has `controls` and `draw(data, choice)`, which returns `traces` and `layout` for Plotly, the sentence `says`,
// and `table`, the same values row by row for those who do not hover. A control's `options` may depend on the choices
// made before it. Values are those of metrics.csv: nothing is computed here but medians and means of matrices and heads
// by layer. Nothing in the files of views touches the page.
"use strict";

const VIRIDIS = ["#440154", "#472f7d", "#39568c", "#2a788e", "#20a386", "#4ac16d", "#a0da39"];
const DASHES = ["solid", "dash", "dot", "dashdot"];
const SYMBOLS = ["circle", "diamond-open", "square", "triangle-up-open", "cross", "x", "star"];

// Words

/** Plotly reads some tags in text: escape what comes from the run. */
const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;");
const unique = (values) => [...new Set(values)];
const there = (value) => value !== null && value !== undefined;
const ascending = (values) => [...values].sort((a, b) => a - b);
const plainly = (value) => value === 0 || (Math.abs(value) >= 1e-4 && Math.abs(value) < 1e6);
const short = (value) => (plainly(value) ? String(Number(value.toPrecision(4))) : value.toExponential(3));
const listed = (words) => [words.slice(0, -1).join(", "), words.at(-1)].filter(Boolean).join(" and ");
const wordsOf = (data, name) => data.styles[name].words;
const placeOf = (data, name) => Object.keys(data.styles).indexOf(name);

/** Say between which values a view spans, and where those are. */
function spanWords(entries) {
  if (!entries.length) return "There are no finite values.";
  const sorted = [...entries].sort((a, b) => a.value - b.value);
  const [low, high] = [sorted[0], sorted.at(-1)].map(({ value, at }) => `${short(value)} (${at})`);
  return `${entries.length > 1 ? `from ${low} to ${high}` : low}.`;
}

function hiddenWords(values, type) {
  const hidden = type === "log" ? values.filter((value) => there(value) && value <= 0).length : 0;
  return hidden ? ` ${hidden} values of 0 or below are not on the logarithmic scale.` : "";
}

// Scales and axes

const spanOf = (values) =>
  values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);

/** A logarithmic scale where it is asked for, or, left to the page, as `uses_log_axis` decides for figures. */
function scaleOf(values, choice) {
  const [low, high] = spanOf(values.filter(there));
  const wide = low > 0 && high > (high > 1 ? 10 : 100) * low;
  return choice.scale === "log" || (choice.scale === "auto" && wide) ? "log" : "linear";
}

/** An axis of whole numbers, a tick for each where these are few: a span of millions would freeze the page. */
function countAxis(places, title) {
  const [low, high] = spanOf(places);
  return { title: { text: title }, dtick: high - low > 16 ? undefined : 1, zeroline: false };
}

const valueAxis = (title, type, values) => ({
  title: { text: plain(title) }, type, hoverformat: ".8~g", ...(type === "log" && logTicks(values)),
});

/** Label 1, 2 and 5 in each decade while those are few, else the decades. */
function logTicks(values) {
  const [low, high] = spanOf(values.filter((value) => value > 0));
  const decades = Math.log10(high / low);
  return { tickformat: "~g", minorloglabels: "complete", dtick: decades < 3 ? "D2" : decades < 12 ? 1 : undefined };
}

function viridis(place, count) {
  const at = (place / Math.max(count - 1, 1)) * (VIRIDIS.length - 1);
  const channels = (stop) => [1, 3, 5].map((digit) => parseInt(VIRIDIS[stop].slice(digit, digit + 2), 16));
  const [low, high] = [channels(Math.floor(at)), channels(Math.ceil(at))];
  return `rgb(${low.map((value, channel) => Math.round(value + (high[channel] - value) * (at % 1))).join(", ")})`;
}

// Lines of spectra

/** Draw singular values by index; a line has `name`, `values` and `style`. */
function drawSpectra(lines, says, choice) {
  const values = lines.flatMap((line) => line.values);
  const type = scaleOf(values, choice);
  return {
    traces: lines.map(spectrumTrace),
    layout: { xaxis: { title: { text: "index i" } }, yaxis: valueAxis("singular value σᵢ", type, values) },
    says: `${says}${hiddenWords(values, type)}`,
    table: spectrumTable(lines),
  };
}

function spectrumTrace({ name, values, style }, place) {
  return {
    type: "scatter", mode: values.length > 20 ? "lines" : "lines+markers", name: plain(name),
    x: values.map((_, index) => index + 1), y: values,
    line: { width: 1.6, ...style }, marker: { symbol: SYMBOLS[place % SYMBOLS.length] },
    hovertemplate: `${plain(name)}, i = %{x}: %{y:.8~g}<extra></extra>`,
  };
}

function spectrumTable(lines) {
  const longest = Math.max(0, ...lines.map((line) => line.values.length));
  const rows = Array.from({ length: longest }, (_, place) => [place + 1, ...lines.map((line) => line.values[place])]);
  return { head: ["i", ...lines.map((line) => line.name)], rows };
}

// Controls

const runOf = (data, choice) => data.runs[Number(choice.run)];
const runOptions = (data) => data.runs.map((run, place) => [String(place), run.label]);
const asOptions = (values, words = String) => unique(values).map((value) => [String(value), words(value)]);

const RUN = { key: "run", words: "Run", options: runOptions };
const METRIC = {
  key: "metric", words: "Metric",
  options: (data, choice) => runOf(data, choice).metrics.map((name) => [name, data.metrics[name]]),
};
const SCALE = {
  key: "scale", words: "Scale",
  options: () => [["auto", "automatic"], ["linear", "linear"], ["log", "logarithmic"]],
};

/** A choice of runs of which `has` is true. */
const runWith = (has) => ({ ...RUN, options: (data) => runOptions(data).filter(([place]) => has(data.runs[place])) });

/** A choice among the components or roles that `list(data, choice)` gives. */
const named = (key, words, list, extra = {}) => ({
  key, words, ...extra, options: (data, choice) => asOptions(list(data, choice), (name) => wordsOf(data, name)),
});

/** A choice among numbers, as layers and heads. */
const numbered = (key, words, list, extra = {}) => ({
  key, words, ...extra, options: (data, choice) => asOptions(ascending(list(data, choice).filter(there))),
});

const range = (list) => [numbered("from", "From layer", list), numbered("to", "To layer", list, { last: true })];

/** Tell whether a layer is in the chosen range; what is outside the layers always is. */
function inRange(layer, choice) {
  const ends = [Number(choice.from), Number(choice.to)];
  return !there(layer) || (layer >= Math.min(...ends) && layer <= Math.max(...ends));
}
