// The views of runs over weight matrices: metrics by layer, and the spectrum of one matrix beside chance.

const NO_LAYER = -1;

const rowsOf = (data, choice) => runOf(data, choice).rows;
const roles = (data, choice) => rowsOf(data, choice).map((row) => row.role);
const rowLayers = (data, choice) => rowsOf(data, choice).map((row) => row.layer);

const metricByLayer = {
  name: "layers",
  title: "metric by layer",
  exists: () => true,
  controls: [RUN, METRIC, named("roles", "Roles", roles, { several: true }), ...range(rowLayers), SCALE],
  draw(data, choice) {
    const title = data.metrics[choice.metric];
    const rows = rowsOf(data, choice)
      .filter((row) => choice.roles.includes(row.role) && inRange(row.layer, choice))
      .map((row) => ({ ...row, value: row.values[choice.metric] }));
    const known = rows.filter((row) => there(row.value));
    const values = known.map((row) => row.value);
    const type = scaleOf(values, choice);
    const span = spanWords(known.map(({ value, role, name }) => ({ value, at: `${role}, ${name}` })));
    const missing = rows.length - known.length;
    return {
      traces: choice.roles.map((role) => roleTrace(data, known.filter((row) => row.role === role), role)),
      layout: {
        xaxis: countAxis(known.map((row) => row.layer), known.every((row) => there(row.layer))
          ? "layer" : `layer (${NO_LAYER}: outside the layers)`),
        yaxis: valueAxis(title, type, values),
      },
      says: `${title} of ${known.length} matrices: ${span}${missing ? ` Missing: ${missing}.` : ""}`
        + hiddenWords(values, type),
      table: {
        head: ["layer", "role", "matrix", "value"],
        rows: rows.map(({ layer, role, name, value, reason }) => [layer, role, name, value ?? reason]),
      },
    };
  },
};

/** A line a role; points alone where a layer has several matrices of it. */
function roleTrace(data, rows, role) {
  const { words, colour, dash } = data.styles[role];
  const layers = rows.map((row) => row.layer ?? NO_LAYER);
  return {
    type: "scatter", mode: unique(layers).length === layers.length ? "lines+markers" : "markers", name: plain(words),
    x: layers, y: rows.map((row) => row.value),
    text: rows.map((row) => `${plain(row.name)}: ${row.value}`), hovertemplate: "%{text}<extra></extra>",
    line: { color: colour, dash, width: 1.6 },
    marker: { color: colour, size: 7, symbol: SYMBOLS[placeOf(data, role) % SYMBOLS.length] },
  };
}

const LAWS = [
  { name: "bulk", words: "Marchenko–Pastur, bulk", line: { color: "#D55E00", dash: "solid", width: 2 } },
  { name: "mp", words: "Marchenko–Pastur, all entries", line: { color: "#000000", dash: "dash", width: 2 } },
];
const BINS_TO_EDGE = 40;
const CURVE_POINTS = 200;

const hasSigma = (row) => row.sigma?.length > 0;
const withSigma = (data, choice) => rowsOf(data, choice).filter(hasSigma);
const RUN_WITH_SIGMA = runWith((run) => run.rows.some(hasSigma));
const ROLE_WITH_SIGMA = named("role", "Role", (data, choice) => withSigma(data, choice).map((row) => row.role));

const MATRIX = {
  key: "matrix", words: "Matrix",
  options(data, choice) {
    const own = [...rowsOf(data, choice).entries()].filter(([, row]) => row.role === choice.role && hasSigma(row));
    return own.map(([place, { layer, name }]) => [String(place), there(layer) ? `layer ${layer}: ${name}` : name]);
  },
};

const matrixSpectrum = {
  name: "matrix",
  title: "spectrum of one matrix",
  exists: (data) => data.runs.some((run) => run.rows.some(hasSigma)),
  controls: [
    RUN_WITH_SIGMA, ROLE_WITH_SIGMA, MATRIX,
    { key: "span", words: "Range", options: () => [["all", "all singular values"], ["bulk", "bulk"]] },
    SCALE,
  ],
  draw(data, choice) {
    const run = runOf(data, choice);
    const row = rowsOf(data, choice)[Number(choice.matrix)];
    const { sigma, values } = row;
    // A run from before these columns has the bulk's edges alone.
    const beyond = outside(values, there(values.count_high) ? "count" : "bulk");
    const outliers = sigma.filter(beyond);
    const edge = values.bulk_high || values.mp_high || sigma[0] || 1;
    const last = choice.span === "bulk" ? 1.3 * edge : 1.05 * Math.max(edge, sigma[0]);
    const size = edge / BINS_TO_EDGE;
    const type = choice.scale === "log" ? "log" : "linear";
    const laws = LAWS.filter(({ name }) => values[`${name}_high`] > 0);
    const heights = densityRange(sigma, size);
    const { norms_low: low, norms_high: high } = values;
    const ends = there(high) ? [low, high].filter(there) : [];
    return {
      traces: [
        histogramTrace(sigma, size),
        ...laws.map((law) => lawTrace(values[`${law.name}_low`], values[`${law.name}_high`], law)),
        outlierTrace(outliers, type === "log" ? heights[0] : 0),
      ],
      layout: {
        bargap: 0,
        xaxis: { title: { text: "singular value σ" }, ticklabelstandoff: 8, range: [0, last] },
        yaxis: { ...valueAxis("density", type, heights), ...(type === "log" && { range: heights.map(Math.log10) }) },
        shapes: ends.map(endLine),
      },
      says: `${row.role}, ${row.name} (${row.rows} × ${row.cols}): ${sigma.length} singular values, `
        + (there(values.bulk_high) ? `${outliers.length} beyond the edges of the Marchenko–Pastur bulk`
          : "no Marchenko–Pastur bulk identified")
        + (ends.length ? `; ${sigma.filter(outside(values, "norms")).length} beyond what independent entries with its `
          + `row and column norms have (dotted, ${ends.map(short).join(" and ")})` : "") + ".",
      table: {
        head: ["i", "σ", "beyond the bulk"],
        rows: sigma.map((value, place) => [place + 1, value, beyond(value) ? "yes" : ""]),
      },
    };
  },
};

const histogramTrace = (sigma, size) => ({
  type: "histogram", name: "singular values", x: sigma, histnorm: "probability density",
  xbins: { start: 0, end: sigma[0] + size, size }, autobinx: false,
  marker: { color: "#56B4E9", line: { color: "#ffffff", width: 0.5 } },
  hovertemplate: "σ %{x}: density %{y:.4~g}<extra></extra>",
});

/** What tells whether a value is beyond either of two columns; an end that a matrix has not is none. */
function outside(values, name) {
  const { [`${name}_low`]: low, [`${name}_high`]: high } = values;
  return (value) => (there(low) && value < low) || (there(high) && value > high);
}

/** The law of Marchenko and Pastur between two edges: √((b² − σ²)(σ² − a²)) / (π σ ((b − a)/2)²). */
function lawTrace(low, high, { words, line }) {
  // Close together at the edges, where the density falls with infinite slope.
  const x = Array.from({ length: CURVE_POINTS }, (_, place) =>
    low + (high - low) * (1 - Math.cos(Math.PI * place / (CURVE_POINTS - 1))) / 2);
  const density = (sigma) => Math.sqrt(Math.max((high + sigma) * (high - sigma), 0)
    * (sigma > 0 ? Math.max((1 - low / sigma) * (1 + low / sigma), 0) : 1)) / (Math.PI * ((high - low) / 2) ** 2);
  return {
    type: "scatter", mode: "lines", name: words, line, x, y: x.map(density),
    hovertemplate: `${words}, σ = %{x:.5~g}: density %{y:.4~g}<extra></extra>`,
  };
}

/** A line at an edge of chance with the matrix's own row and column norms. */
const endLine = (x) => ({
  type: "line", x0: x, x1: x, y0: 0, y1: 1, yref: "paper", line: { color: "#009E73", dash: "dot", width: 1.5 },
});

const outlierTrace = (outliers, floor) => ({
  type: "scatter", mode: "markers", name: "beyond the bulk", x: outliers, y: outliers.map(() => floor),
  cliponaxis: false, marker: { symbol: "line-ns-open", size: 16, color: "#000000", line: { width: 1.2 } },
  hovertemplate: "σ = %{x:.8~g}, beyond the bulk<extra></extra>",
});

/** Heights that a logarithmic axis shows: from half of a bin with one value to beyond the fullest. */
function densityRange(sigma, size) {
  const counts = new Map();
  for (const value of sigma) counts.set(Math.floor(value / size), (counts.get(Math.floor(value / size)) ?? 0) + 1);
  const one = 1 / (sigma.length * size);
  return [0.5 * one, 2 * one * Math.max(...counts.values())];
}
