"use strict";
(() => {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const plots = [...document.querySelectorAll(".plot")];
  const drawn = new Set();
  const MOST_WEBGL = 4; // browsers keep about sixteen contexts for a page, and a figure takes up to three
  const PRINT_WIDTH = 680;
  let printing = false;

  const isDark = () => !printing && (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);

  // Figures ----------------------------------------------------------------------------------------------------------

  const colors = () =>
    isDark()
      ? { ink: "#e6e9ec", line: "#39414a", paper: "#1e2329" }
      : { ink: "#1c2024", line: "#d8dce1", paper: "#ffffff" };

  // The layout with the theme's colors: backgrounds are the page's.
  const themed = (given, narrow, parallel) => {
    const { ink, line, paper } = colors();
    const layout = { ...given, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true };
    layout.font = { ...given.font, color: ink, family: "system-ui, sans-serif" };
    layout.hoverlabel = { ...given.hoverlabel, bgcolor: paper, bordercolor: line, font: { color: ink } };
    layout.modebar = { ...given.modebar, bgcolor: "rgba(0,0,0,0)", color: ink, activecolor: ink };
    if (given.legend) layout.legend = { ...given.legend, bgcolor: "rgba(0,0,0,0)" };
    for (const key of Object.keys({ xaxis: 0, yaxis: 0, ...given }).filter((name) => /^[xy]axis\d*$/.test(name)))
      layout[key] = { ...given[key], gridcolor: line, linecolor: line, zerolinecolor: line, tickcolor: line };
    delete layout.width;
    if (narrow) {
      // Beside the figure the legend would leave no room for it. Its place is counted in heights of the plot.
      const height = given.height ?? 450;
      layout.legend = { ...layout.legend, orientation: "h", x: 0, xanchor: "left", y: -70 / Math.max(120, height - 150), yanchor: "top" };
      // The last axis of parallel coordinates has a heading that reaches beyond it.
      const right = parallel ? 45 : 10;
      layout.margin = { ...given.margin, l: Math.min(given.margin?.l ?? 60, 50), r: right };
      layout.title = { ...given.title, font: { ...given.title?.font, size: 12 } };
    }
    if (printing) Object.assign(layout, { autosize: false, width: PRINT_WIDTH });
    return layout;
  };

  // Parallel coordinates have fonts of their own, and thin lines: on a dark page the scale begins brighter.
  const inked = (trace) => {
    if (trace.type !== "parcoords") return { ...trace };
    const color = colors().ink;
    const fonts = ["labelfont", "tickfont", "rangefont"].map((name) => [name, { ...trace[name], color }]);
    const line = isDark() ? { ...trace.line, colorscale: [[0, "#9a86ee"], [0.5, "#2fb39c"], [1, "#d8e24c"]] } : trace.line;
    return { ...trace, line, ...Object.fromEntries(fonts) };
  };

  const config = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["sendDataToCloud", "lasso2d", "select2d"] };

  const readData = async (id) => {
    const { textContent, dataset } = document.getElementById(id);
    if (!("gzip" in dataset)) return JSON.parse(textContent);
    const bytes = Uint8Array.from(atob(textContent), (char) => char.charCodeAt(0));
    const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(plain).text());
  };
  const read = (plot) => (plot.reading ??= readData(plot.dataset.figure).then((content) => (plot.content = content)));

  const fail = (plot, error) => {
    plot.textContent = `This figure cannot be drawn here (${error.message}).`;
    plot.classList.add("failed");
  };

  const drawNow = (plot) => {
    try {
      const { data, layout } = plot.content;
      Plotly.react(plot, data.map(inked), themed(layout, plot.clientWidth < 640, data[0]?.type === "parcoords"), config);
      drawn.delete(plot);
      drawn.add(plot); // the last drawn is the last in order
      describe(plot);
    } catch (error) {
      fail(plot, error);
    }
    if (!printing) release();
  };
  const draw = (plot) => read(plot).then(() => drawNow(plot), (error) => fail(plot, error));

  // Plotly's drawing is nothing to a screen reader: the sentence stands for it.
  const describe = (plot) => {
    for (const svg of plot.querySelectorAll("svg")) svg.setAttribute("aria-hidden", "true");
    const main = plot.querySelector(".svg-container");
    if (main) Object.entries({ role: "group", "aria-label": plot.dataset.sentence }).forEach(([k, v]) => main.setAttribute(k, v));
  };

  // WebGL contexts are scarce: the figures drawn longest ago, and out of sight, give theirs back.
  const release = () => {
    const holders = [...drawn].filter((plot) => "webgl" in plot.dataset);
    for (const plot of holders.slice(0, Math.max(0, holders.length - MOST_WEBGL))) {
      const { top, bottom } = plot.getBoundingClientRect();
      if (bottom > 0 && top < innerHeight) continue;
      Plotly.purge(plot);
      drawn.delete(plot);
      near.unobserve(plot);
      near.observe(plot);
    }
  };

  const near = new IntersectionObserver(
    (seen) => seen.filter((entry) => entry.isIntersecting && !drawn.has(entry.target)).forEach((entry) => draw(entry.target)),
    { rootMargin: "400px" },
  );

  const redraw = () => [...drawn].forEach(drawNow);

  // Theme ------------------------------------------------------------------------------------------------------------

  const toggle = document.getElementById("theme");
  const label = () => {
    toggle.textContent = isDark() ? "Light" : "Dark";
    toggle.setAttribute("aria-label", `Change to ${isDark() ? "light" : "dark"} colors`);
    toggle.setAttribute("aria-pressed", String(isDark()));
  };
  toggle.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try {
      localStorage.setItem("search-theme", root.dataset.theme);
    } catch {
      // A page from a file may have no storage: the choice holds until it is closed.
    }
    label();
    redraw();
  });
  dark.addEventListener("change", () => {
    label();
    redraw();
  });

  // Print ------------------------------------------------------------------------------------------------------------

  let closed = [];
  addEventListener("beforeprint", () => {
    printing = true;
    closed = [...document.querySelectorAll("details:not([open])")];
    closed.forEach((each) => (each.open = true));
    plots.filter((plot) => plot.content).forEach(drawNow); // a print waits for nothing
  });
  addEventListener("afterprint", () => {
    printing = false;
    closed.forEach((each) => (each.open = false));
    redraw();
  });

  // Tables -----------------------------------------------------------------------------------------------------------

  const sortKey = (row, column) => {
    const cell = row.cells[column];
    return "sort" in cell.dataset ? Number(cell.dataset.sort) : cell.textContent.trim();
  };
  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true });
  const isEmpty = (key) => key === "" || key === "–";

  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) =>
      head.querySelector("button").addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        heads.forEach((each) => each.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const keyed = [...table.tBodies[0].rows].map((row) => [sortKey(row, column), row]);
        keyed.sort(([a], [b]) => isEmpty(a) - isEmpty(b) || compare(a, b) * (down ? -1 : 1));
        table.tBodies[0].append(...keyed.map(([, row]) => row));
      }),
    );
  }

  label();
  plots.forEach((plot) => near.observe(plot));
  const later = window.requestIdleCallback ?? setTimeout;
  addEventListener("load", () => plots.forEach((plot) => later(() => read(plot).catch((error) => fail(plot, error)))));
  root.dataset.ready = "true";
})();
