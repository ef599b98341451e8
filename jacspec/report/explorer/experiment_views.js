// The view of runs over experiments: a column against the key that they are ordered by, a line a target, order or role.

const picks = (data, choice) => rowsOf(data, choice).map((row) => row.pick).filter(there);
const lines = (data, choice) => rowsOf(data, choice).map((row) => row.line);

const byExperiment = {
  name: "experiments",
  title: "by experiment",
  exists: () => true,
  controls: [
    RUN, METRIC,
    { key: "pick", words: "Of", options: (data, choice) => asOptions(picks(data, choice)) },
    named("lines", "Lines", lines, { several: true }),
    SCALE,
  ],
  draw(data, choice) {
    const { along, log, chance } = runOf(data, choice);
    const title = data.metrics[choice.metric];
    const rows = rowsOf(data, choice)
      .filter((row) => choice.lines.includes(row.line) && (!there(row.pick) || row.pick === choice.pick));
    const ends = spanOf(rows.map((row) => row.x).filter(there));
    const found = choice.lines.map((line) => ({ line, points: means(rows, line, choice.metric, ends) }))
      .filter(({ points }) => points.length);
    const all = found.flatMap(({ line, points }) => points.map((point) => ({ ...point, line })));
    const values = all.map((point) => point.value);
    const type = scaleOf(values, choice);
    const entries = all.map(({ value, line, x }) => ({ value, at: `${wordsOf(data, line)} at ${short(x)}` }));
    const repeats = Math.max(...all.map((point) => point.n));
    return {
      traces: [
        ...found.map((each) => experimentTrace(data, each)),
        ...(there(chance) && choice.metric.endsWith("accuracy") ? [chanceTrace(chance, ends)] : []),
      ],
      layout: {
        xaxis: log ? { title: { text: along }, type: "log" } : countAxis(all.map((point) => point.x), along),
        yaxis: valueAxis(title, type, values),
      },
      says: `${title}${repeats > 1 ? `, means of ${repeats} with one standard deviation` : ""}: `
        + `${spanWords(entries)}${hiddenWords(values, type)}`,
      table: {
        head: [along, "line", "n", "value", repeats > 1 ? "standard deviation" : "standard error"],
        rows: all.map(({ x, line, n, value, error }) => [x, wordsOf(data, line), n, value, error]),
      },
    };
  },
};

/** The mean of a column at each place of a line; what has no place is a level from end to end. */
function means(rows, line, metric, ends) {
  const own = rows.filter((row) => row.line === line && there(row.values[metric]));
  const points = unique(own.map((row) => row.x)).flatMap((x) => {
    const here = own.filter((row) => row.x === x);
    const value = MIDDLES.mean(here.map((row) => row.values[metric]));
    const squares = here.reduce((sum, row) => sum + (row.values[metric] - value) ** 2, 0);
    const error = here.length > 1 ? Math.sqrt(squares / (here.length - 1)) : here[0].errors[metric] ?? null;
    return (there(x) ? [x] : unique(ends)).map((place) => ({ x: place, value, error, n: here.length }));
  });
  return points.sort((a, b) => a.x - b.x);
}

const chanceTrace = (chance, ends) => ({
  type: "scatter", mode: "lines", name: "chance", x: ends, y: [chance, chance],
  line: { color: "#8c8c8c", dash: "dot", width: 1.4 }, hovertemplate: `chance: ${chance}<extra></extra>`,
});

function experimentTrace(data, { line, points }) {
  const { words, colour, dash } = data.styles[line];
  return {
    type: "scatter", mode: "lines+markers", name: plain(words),
    x: points.map((point) => point.x), y: points.map((point) => point.value),
    error_y: {
      array: points.map((point) => point.error ?? 0), visible: points.some((point) => point.error),
      thickness: 1, width: 3,
    },
    line: { color: colour, dash, width: 1.6 },
    marker: { color: colour, size: 6, symbol: SYMBOLS[placeOf(data, line) % SYMBOLS.length] },
    hovertemplate: `${plain(words)}, %{x}: %{y:.8~g}<extra></extra>`,
  };
}
