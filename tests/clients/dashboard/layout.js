// Finds what is cut, what overlaps, what has no unit and what no key explains. Returns a list of faults in words.
(() => {
  const faults = [], wide = document.documentElement.clientWidth;
  const isShown = (element) =>
    element.checkVisibility({ visibilityProperty: true }) && !element.closest(".hidden, .skip, script, style, noscript, title");
  const short = (text) => JSON.stringify(text.trim().slice(0, 60));
  const isPart = (rect, of) => rect.left >= of.left - 1 && rect.right <= of.right + 1;

  // Every line of every text. What is scrolled out of a table's own scroller is no fault.
  const lines = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, parent = node.parentElement;
    if (!node.data.trim() || !isShown(parent)) continue;
    const scroller = parent.closest(".scroll"), range = document.createRange();
    range.selectNodeContents(node);
    for (const rect of range.getClientRects()) {
      if (rect.width < 1 || rect.height < 1) continue;
      if (scroller && !isPart(rect, scroller.getBoundingClientRect())) continue;
      lines.push({ node, text: node.data, rect });
      if (rect.left < -0.5 || rect.right > wide + 0.5) faults.push(`beyond the window: ${short(node.data)}`);
      for (let box = parent; box && box !== document.body; box = box.parentElement) {
        if (box.matches(".scroll, svg, svg *")) break;
        if (getComputedStyle(box).overflowX !== "visible" && !isPart(rect, box.getBoundingClientRect())) faults.push(`cut: ${short(node.data)}`);
      }
    }
  }
  for (const svg of document.querySelectorAll(".charts svg[role=img]")) {
    const box = svg.getBoundingClientRect();
    for (const text of svg.querySelectorAll("text")) {
      if (!isPart(text.getBoundingClientRect(), box)) faults.push(`beyond its chart: ${short(text.textContent)}`);
    }
  }
  // A line of text has room above and below its letters.
  const letters = ({ rect }) => ({ left: rect.left + 1, right: rect.right - 1, top: rect.top + rect.height / 5, bottom: rect.bottom - rect.height / 5 });
  const boxes = lines.map(letters);
  boxes.forEach((one, at) => {
    for (let other = at + 1; other < boxes.length; other++) {
      const two = boxes[other];
      if (lines[at].node === lines[other].node) continue;
      if (one.left < two.right && two.left < one.right && one.top < two.bottom && two.top < one.bottom) {
        faults.push(`${short(lines[at].text)} overlaps ${short(lines[other].text)}`);
      }
    }
  });
  const parts = "header > *, main > *, .charts > *, .pair > *, .pair section, .tiles > *, .notice > *, footer > *";
  const shown = [...document.querySelectorAll(parts)].filter((part) => isShown(part) && part.getClientRects().length);
  for (const part of shown) {
    const one = part.getBoundingClientRect();
    if (one.left < -0.5 || one.right > wide + 0.5) faults.push(`beyond the window: ${part.tagName} ${part.className}`);
    for (const sibling of part.parentElement.children) {
      const two = sibling.getBoundingClientRect();
      const isLater = part.compareDocumentPosition(sibling) & Node.DOCUMENT_POSITION_FOLLOWING;
      if (!isLater || !isShown(sibling)) continue;
      if (one.left < two.right - 1 && two.left < one.right - 1 && one.top < two.bottom - 1 && two.top < one.bottom - 1) {
        faults.push(`${part.tagName} ${short(part.textContent)} overlaps ${sibling.tagName} ${short(sibling.textContent)}`);
      }
    }
  }

  const withUnit = /^(–|now|.*(\/s|µs|ms| s| min| h| %| of [\d,]+| [KMGT]?i?B))$/;
  const figures = [
    ...document.querySelectorAll(".tiles dd:not(.note), .charts svg text, .charts .legend data, #endpoints td.number"),
    ...document.querySelectorAll("[data-unit]:not([data-unit=state])"),
  ];
  if (figures.length < 20) faults.push(`only ${figures.length} figures`);
  for (const figure of figures) {
    if (isShown(figure) && !withUnit.test(figure.textContent.trim())) faults.push(`no unit: ${short(figure.textContent)}`);
  }

  // Each kind of cell, each swatch and each line stands in a legend.
  const kind = (element) => [...element.classList].find((name) => name !== "cell");
  const isExplained = (cell) => [...document.querySelectorAll(".legend .cell")].some((key) =>
    kind(key) === kind(cell) && key.textContent === cell.firstChild.textContent);
  for (const cell of document.querySelectorAll(".cells .cell")) {
    if (!isExplained(cell)) faults.push(`no key for the cell ${cell.className} ${short(cell.firstChild.textContent)}`);
  }
  for (const figure of document.querySelectorAll(".charts figure")) {
    const keys = new Set([...figure.querySelectorAll(".legend svg")].map((key) => key.getAttribute("class")));
    for (const drawn of figure.querySelectorAll("svg[role=img] > g")) {
      if (!keys.has(drawn.getAttribute("class"))) faults.push(`no key for ${drawn.getAttribute("class")} in ${figure.querySelector("h3").textContent}`);
    }
  }
  for (const [bar, key] of [["#states", "#states-legend"], [".mix:not(.whole)", "#phases-key"]]) {
    const tones = new Set([...document.querySelectorAll(`${key} .swatch`)].map((swatch) => swatch.className.replace("swatch ", "")));
    for (const part of document.querySelectorAll(`${bar} span`)) {
      if (!tones.has(part.className.replace(" empty", ""))) faults.push(`no key for the colour ${part.className}`);
    }
  }
  const colours = [...document.querySelectorAll("#states-legend .swatch")].map((swatch) => getComputedStyle(swatch).backgroundColor);
  if (new Set(colours).size !== colours.length) faults.push(`two states have one colour: ${colours}`);
  return [...new Set(faults)];
})()
