// Two columns against each other, a point a sample, matrix or head, coloured by layer; the same axes for all runs, so
// that a series of runs, as steps of training, can be played.

const partsOf = (data, choice) => pointsOf(runOf(data, choice)).map((point) => point.part);

/** List what has values: samples by component and layer (medians, where a page holds no samples), matrices or heads. */
function pointsOf(run) {
  if (run.rows) return run.rows.map(({ role, layer, name, values }) => ({ part: role, layer, at: name, values }));
  return run.groups.flatMap(({ component, layer, boxes, values }) => {
    const names = Object.keys(boxes);
    const own = (place) => Object.fromEntries(names.map((name) =>
      [name, values ? values[name][place] : boxes[name]?.median ?? null]));
    const count = values ? run.tokens.length : 1;
    return Array.from({ length: count }, (_, place) =>
      ({ part: component, layer, at: values ? `sample ${place}` : "median", values: own(place) }));
  });
}

const ACROSS = {
  key: "across", words: "Across",
  options: (data, choice) => {
    const [first, ...others] = METRIC.options(data, choice);
    return [...others, first];
  },
};

const scatter = {
  name: "scatter",
  title: "two columns against each other",
  exists: (data) => data.runs.some((run) => run.metrics.length > 1),
  controls: [RUN, { ...METRIC, words: "Up" }, ACROSS, named("parts", "Of", partsOf, { several: true }), SCALE],
  draw(data, choice) {
    const names = [choice.across, choice.metric];
    const known = (run) => pointsOf(run).filter(({ part, values }) =>
      choice.parts.includes(part) && names.every((name) => there(values[name])));
    const points = known(runOf(data, choice));
    const everywhere = data.runs.flatMap(known);
    const [across, up] = names.map((name) => valuesAxis(data, name, everywhere, choice));
    const drawn = choice.parts.filter((part) => points.some((point) => point.part === part));
    const layers = unique(everywhere.map((point) => point.layer).filter(there));
    const rank = rankCorrelation(...names.map((name) => points.map((point) => point.values[name])));
    return {
      traces: drawn.map((part, place) =>
        pointTrace(data, part, points.filter((point) => point.part === part), names, spanOf(layers), !place)),
      layout: { xaxis: across, yaxis: up, legend: { ...LEGEND_LEFT } },
      says: `${data.metrics[choice.metric]} against ${data.metrics[choice.across]}, ${runOf(data, choice).label}: `
        + `${points.length} points${there(rank) ? `, rank correlation ${rank.toFixed(3)}` : ""}.`,
      table: {
        head: ["layer", "of", "which", ...names.map((name) => data.metrics[name])],
        rows: points.map(({ layer, part, at, values }) =>
          [layer, wordsOf(data, part), at, ...names.map((name) => values[name])]),
      },
    };
  },
};

const LEGEND_LEFT = { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" };

/** An axis that holds the values of all runs, so that it stays as one run follows another. */
function valuesAxis(data, name, points, choice) {
  const values = points.map((point) => point.values[name]);
  const type = scaleOf(values, choice);
  const shown = type === "log" ? values.filter((value) => value > 0).map(Math.log10) : values;
  const [low, high] = spanOf(shown);
  const room = 0.05 * (high - low || 1);
  const range = shown.length ? { range: [low - room, high + room] } : {};
  return { ...valueAxis(data.metrics[name], type, values), zeroline: false, ...range };
}

function pointTrace(data, part, points, [across, up], [first, last], shown) {
  const { words } = data.styles[part];
  return {
    type: "scatter", mode: "markers", name: plain(words),
    x: points.map((point) => point.values[across]), y: points.map((point) => point.values[up]),
    text: points.map(({ layer, at, values }) =>
      `${plain(words)}, layer ${layer ?? "–"}, ${plain(at)}: ${values[across]}, ${values[up]}`),
    hovertemplate: "%{text}<extra></extra>",
    marker: {
      symbol: SYMBOLS[placeOf(data, part) % SYMBOLS.length], size: 7, opacity: 0.75,
      color: points.map((point) => point.layer ?? first), cmin: first, cmax: last,
      colorscale: VIRIDIS.map((colour, place) => [place / (VIRIDIS.length - 1), colour]),
      showscale: shown && last > first, colorbar: { title: { text: "layer" }, thickness: 12 },
    },
  };
}

/** Spearman's rank correlation, ties sharing their mean rank; null where either does not vary. */
function rankCorrelation(...columns) {
  const [x, y] = columns.map(centredRanks);
  const product = (a, b) => a.reduce((sum, value, place) => sum + value * b[place], 0);
  const size = Math.sqrt(product(x, x) * product(y, y));
  return size > 0 ? product(x, y) / size : null;
}

function centredRanks(values) {
  const sorted = ascending(values);
  const [firsts, lasts] = [new Map(), new Map()];
  sorted.forEach((value, place) => {
    if (!firsts.has(value)) firsts.set(value, place);
    lasts.set(value, place);
  });
  return values.map((value) => (firsts.get(value) + lasts.get(value)) / 2 - (values.length - 1) / 2);
}
