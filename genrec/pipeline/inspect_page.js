"use strict";
// The tree of a SID vocabulary. Rows are made when their parent is opened and in portions, so that
// a page of a million items stays quick. Text from the data is only ever set as textContent.
(() => {
  const PORTION = 100;
  const HITS = 40;
  const ARRAYS = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array };
  const byId = (id) => document.getElementById(id);
  const number = (value) => value.toLocaleString("en-US");
  const many = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;

  function make(tag, name, text) {
    const element = document.createElement(tag);
    if (name) element.className = name;
    if (text !== undefined) element.textContent = text;
    return element;
  }

  async function unpack(text) {
    const binary = atob(text);
    const packed = new Uint8Array(binary.length);
    for (let i = 0; i < binary.length; i++) packed[i] = binary.charCodeAt(i);
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Response(stream).arrayBuffer();
  }

  // Where each of several runs starts, given their lengths; one entry more than there are runs.
  function startsOf(lengths) {
    const starts = new Uint32Array(lengths.length + 1);
    for (let i = 0; i < lengths.length; i++) starts[i + 1] = starts[i] + lengths[i];
    return starts;
  }

  // The run that a place is in: the last start that is not beyond it.
  function runOf(starts, place) {
    let low = 0;
    let high = starts.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (starts[middle + 1] <= place) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  const LOWER = new Uint8Array(256).map((_, byte) => (byte >= 65 && byte <= 90 ? byte + 32 : byte));

  class Texts {
    constructor(bytes, lengths) {
      this.bytes = bytes;
      this.starts = startsOf(lengths);
      this.decoder = new TextDecoder();
    }

    get(item) {
      return this.decoder.decode(this.bytes.subarray(this.starts[item], this.starts[item + 1]));
    }

    // Items whose text holds the words, capital letters A to Z read as small ones.
    find(words, limit) {
      const needle = new TextEncoder().encode(words).map((byte) => LOWER[byte]);
      const { bytes, starts } = this;
      const found = [];
      for (let at = 0; at + needle.length <= bytes.length && found.length < limit; at++) {
        let same = 0;
        while (same < needle.length && LOWER[bytes[at + same]] === needle[same]) same++;
        if (same < needle.length) continue;
        const item = runOf(starts, at);
        if (at + needle.length > starts[item + 1]) continue;
        found.push(item);
        at = starts[item + 1] - 1;
      }
      return found;
    }
  }

  // A trie in flat arrays: the children of a node are a range of the nodes one level below.
  class Trie {
    constructor(arrays, which, levels, items) {
      this.levels = levels;
      this.codes = [];
      this.starts = [];
      for (let level = 0; level < levels; level++) {
        this.codes.push(arrays[`codes_${which}_${level}`]);
        this.starts.push(startsOf(arrays[`children_${which}_${level}`]));
      }
      this.leaves = startsOf(arrays[`bucket_${which}`]);
      this.items = items; // the item at each place of the leaves; the place itself if absent
    }

    // The first place below a node; with the next node, one past the last.
    firstPlace(depth, node) {
      for (let level = depth; level < this.levels; level++) node = this.starts[level][node];
      return this.leaves[node];
    }

    itemAt(place) {
      return this.items ? this.items[place] : place;
    }

    placeOf(item) {
      if (!this.items) return item;
      if (!this.places) {
        this.places = new Uint32Array(this.items.length);
        this.items.forEach((one, place) => (this.places[one] = place));
      }
      return this.places[item];
    }

    sidAt(place) {
      let node = runOf(this.leaves, place);
      const sid = [];
      for (let level = this.levels - 1; level >= 0; level--) {
        sid.unshift(this.codes[level][node]);
        node = runOf(this.starts[level], node);
      }
      return sid;
    }

    // A node that leads down to one child only stands for the whole way to the next fork.
    entry(depth, node, prefix) {
      const sid = [...prefix, this.codes[depth - 1][node]];
      while (depth < this.levels && this.starts[depth][node + 1] - this.starts[depth][node] === 1) {
        node = this.starts[depth][node];
        sid.push(this.codes[depth][node]);
        depth += 1;
      }
      const first = this.firstPlace(depth, node);
      return { depth, node, sid, from: prefix.length, first, size: this.firstPlace(depth, node + 1) - first };
    }

    below({ depth, node, sid }) {
      const found = [];
      for (let child = this.starts[depth][node]; child < this.starts[depth][node + 1]; child++) {
        found.push(this.entry(depth + 1, child, sid));
      }
      return found;
    }
  }

  class View {
    constructor(element, trie, items, key) {
      this.element = element;
      this.trie = trie;
      this.items = items;
      this.key = key;
      this.bySize = false;
      this.entries = new WeakMap();
      element.addEventListener("click", (event) => this.clicked(event));
      element.addEventListener("keydown", (event) => this.pressed(event));
      this.reset();
    }

    reset() {
      this.element.replaceChildren();
      const root = { depth: 0, node: 0, sid: [] };
      this.fill(this.element, this.sorted(this.trie.below(root)), 0, 1);
      this.current = null;
      const first = this.element.firstElementChild;
      if (first) first.tabIndex = 0;
    }

    sorted(entries) {
      return this.bySize ? entries.sort((a, b) => b.size - a.size) : entries;
    }

    // Rows for a portion of the entries, and a row that asks for the next one.
    fill(group, entries, from, level) {
      const rows = document.createDocumentFragment();
      const until = Math.min(from + PORTION, entries.length);
      group.largest ??= entries.reduce((most, entry) => Math.max(most, entry.size || 1), 1);
      for (const entry of entries.slice(from, until)) {
        rows.append(this.row(entry, level, entries.length, group.largest));
      }
      group.entries = entries;
      group.shown = until;
      if (until < entries.length) {
        const more = make("li", "more");
        const left = entries.length - until;
        more.append(make("div", "row", `show ${Math.min(PORTION, left)} more of ${number(left)}`));
        more.setAttribute("role", "treeitem");
        more.tabIndex = -1;
        rows.append(more);
      }
      group.append(rows);
    }

    showMore(more) {
      const group = more.parentElement;
      const level = Number(more.previousElementSibling.getAttribute("aria-level"));
      more.remove();
      const place = group.shown;
      this.fill(group, group.entries, place, level);
      return group.children[place];
    }

    row(entry, level, siblings, largest) {
      const line = make("li");
      line.setAttribute("role", "treeitem");
      line.setAttribute("aria-level", level);
      line.setAttribute("aria-setsize", siblings);
      line.tabIndex = -1;
      this.entries.set(line, entry);
      const row = make("div", "row");
      line.append(row);
      if (entry.item !== undefined) {
        this.describe(row, entry.item);
        return line;
      }
      row.append(make("span", "sid", entry.sid.slice(entry.from).join("/")));
      if (entry.size === 1) {
        this.describe(row, this.trie.itemAt(entry.first));
        return line;
      }
      line.setAttribute("aria-expanded", "false");
      line.style.setProperty("--share", entry.size / largest);
      const bucket = entry.depth === this.trie.levels;
      row.append(make("span", bucket ? "size bucket" : "size", many(entry.size, "item")));
      const [category, share] = this.items.commonest(entry, this.trie);
      if (category) {
        const label = make("span", "category");
        label.append(make("bdi", "", category));
        label.title = category;
        row.append(make("span", "percent", share), label);
      }
      const shown = [0, entry.size >> 1, entry.size - 1].map((at) => this.trie.itemAt(entry.first + at));
      const titles = [...new Set(shown)].map((item) => this.items.title(item));
      row.append(make("span", "titles", titles.join(" \u00b7 ")));
      return line;
    }

    describe(row, item) {
      row.classList.add("item");
      row.append(make("span", "title", this.items.title(item)));
      const id = this.items.id(item);
      if (id) row.append(make("span", "id", id));
      const count = this.items.count(item);
      if (count !== undefined) row.append(make("span", "count", many(count, "event")));
      if (this.other) {
        const jump = make("button", "jump", `also ${this.other.trie.sidAt(this.other.trie.placeOf(item)).join("/")}`);
        jump.tabIndex = -1;
        jump.title = "find this item in the other vocabulary";
        row.append(jump);
      }
    }

    itemOf(line) {
      const entry = this.entries.get(line);
      if (!entry) return undefined;
      return entry.item !== undefined ? entry.item : entry.size === 1 ? this.trie.itemAt(entry.first) : undefined;
    }

    isOpen(line) {
      return line.getAttribute("aria-expanded") === "true";
    }

    open(line) {
      const entry = this.entries.get(line);
      if (!line.hasAttribute("aria-expanded") || this.isOpen(line)) return;
      if (!line.lastElementChild.matches("ul")) {
        const group = make("ul");
        group.setAttribute("role", "group");
        const level = Number(line.getAttribute("aria-level")) + 1;
        if (entry.depth === this.trie.levels) {
          const items = [];
          for (let at = 0; at < entry.size; at++) items.push({ item: this.trie.itemAt(entry.first + at) });
          this.fill(group, items, 0, level);
        } else {
          this.fill(group, this.sorted(this.trie.below(entry)), 0, level);
        }
        line.append(group);
      }
      line.setAttribute("aria-expanded", "true");
    }

    close(line) {
      if (this.isOpen(line)) line.setAttribute("aria-expanded", "false");
    }

    focus(line, remember = true) {
      if (!line) return;
      if (this.current) this.current.tabIndex = -1;
      const first = this.element.firstElementChild;
      if (first !== line) first.tabIndex = -1;
      this.current = line;
      line.tabIndex = 0;
      line.focus({ preventScroll: true });
      line.firstElementChild.scrollIntoView({ block: "nearest" });
      const entry = this.entries.get(line) || {};
      if (remember && entry.sid) {
        history.replaceState(null, "", `#${this.key}/${entry.sid.join("/")}`);
      }
    }

    // Open the rows that lead to a prefix; returns the last one that exists.
    goTo(sid, item) {
      let group = this.element;
      let line = null;
      while (group) {
        const entries = group.entries;
        const at = entries.findIndex((entry) =>
          entry.sid ? entry.sid.every((code, i) => i >= sid.length || code === sid[i]) : entry.item === item);
        if (at < 0) break;
        while (at >= group.shown) this.showMore(group.lastElementChild);
        line = group.children[at];
        const entry = entries[at];
        if (!entry.sid) break;
        if (entry.sid.length >= sid.length && item === undefined) {
          this.open(line);
          break;
        }
        this.open(line);
        group = line.lastElementChild.matches("ul") ? line.lastElementChild : null;
      }
      if (!line) return false;
      this.focus(line);
      line.firstElementChild.scrollIntoView({ block: "center" });
      return true;
    }

    goToItem(item) {
      this.goTo(this.trie.sidAt(this.trie.placeOf(item)), item);
    }

    clicked(event) {
      const line = event.target.closest("li");
      if (!line) return;
      if (event.target.closest(".jump")) this.other.goToItem(this.itemOf(line));
      else if (line.matches(".more")) this.focus(this.showMore(line));
      else {
        if (this.isOpen(line)) this.close(line);
        else this.open(line);
        this.focus(line);
      }
    }

    next(line) {
      if (this.isOpen(line)) return line.lastElementChild.firstElementChild;
      while (line && line !== this.element) {
        if (line.nextElementSibling) return line.nextElementSibling;
        line = line.parentElement.closest("li");
      }
      return null;
    }

    previous(line) {
      let before = line.previousElementSibling;
      if (!before) return line.parentElement.closest("li");
      while (this.isOpen(before)) before = before.lastElementChild.lastElementChild;
      return before;
    }

    pressed(event) {
      const line = event.target.closest("li");
      if (!line || event.altKey || event.ctrlKey || event.metaKey) return;
      const inside = () => this.isOpen(line) && line.lastElementChild.firstElementChild;
      const steps = {
        ArrowDown: () => this.focus(this.next(line)),
        ArrowUp: () => this.focus(this.previous(line)),
        ArrowRight: () => (this.isOpen(line) ? this.focus(inside()) : this.open(line)),
        ArrowLeft: () => (this.isOpen(line) ? this.close(line) : this.focus(line.parentElement.closest("li"))),
        Home: () => this.focus(this.element.firstElementChild),
        End: () => this.focus(this.element.lastElementChild),
        Enter: () => this.activate(line),
        " ": () => this.activate(line),
      };
      if (!steps[event.key]) return;
      event.preventDefault();
      steps[event.key]();
    }

    activate(line) {
      if (line.matches(".more")) this.focus(this.showMore(line));
      else if (line.hasAttribute("aria-expanded")) {
        if (this.isOpen(line)) this.close(line);
        else this.open(line);
        this.focus(line);
      } else if (this.other) this.other.goToItem(this.itemOf(line));
    }
  }

  // What is known of the items, by their place in the first trie.
  class Items {
    constructor(arrays, categories) {
      this.titles = new Texts(arrays.title, arrays.title_lengths);
      this.ids = arrays.id ? new Texts(arrays.id, arrays.id_lengths) : null;
      this.rows = arrays.row;
      this.counts = arrays.count;
      this.category = arrays.category;
      this.names = categories;
      this.tally = new Uint32Array(categories.length + 1);
    }

    title(item) {
      const text = this.titles.get(item);
      return text || (this.rows ? `item in row ${number(this.rows[item] + 1)}` : "(no title)");
    }

    id(item) {
      const id = this.ids ? this.ids.get(item) : "";
      return id && id !== this.titles.get(item) ? id : "";
    }

    count(item) {
      return this.counts ? this.counts[item] : undefined;
    }

    // The category most items below a node have, and the share of those who have one.
    commonest({ first, size }, trie) {
      if (!this.category) return [];
      this.tally.fill(0);
      for (let at = first; at < first + size; at++) this.tally[this.category[trie.itemAt(at)]] += 1;
      const known = size - this.tally[0];
      let best = 0;
      for (let i = 1; i < this.tally.length; i++) if (!best || this.tally[i] > this.tally[best]) best = i;
      return known ? [this.names[best - 1], `${Math.round((100 * this.tally[best]) / known)}%`] : [];
    }

    find(words) {
      const found = this.titles.find(words, HITS);
      if (this.ids) found.push(...this.ids.find(words, HITS));
      return [...new Set(found)].slice(0, HITS);
    }
  }

  // One cell per code; dead codes stand out.
  function drawUsage(canvas, usage) {
    const side = Math.ceil(Math.sqrt(usage.length));
    const most = usage.reduce((a, b) => Math.max(a, b), 1);
    const style = getComputedStyle(document.documentElement);
    const [low, high, dead] = ["--cold", "--hot", "--dead"].map((name) =>
      style.getPropertyValue(name).trim().match(/[0-9a-f]{2}/gi).map((pair) => parseInt(pair, 16)));
    canvas.width = side;
    canvas.height = Math.ceil(usage.length / side);
    const context = canvas.getContext("2d");
    const image = context.createImageData(canvas.width, canvas.height);
    usage.forEach((count, code) => {
      const heat = Math.sqrt(count / most);
      for (let i = 0; i < 3; i++) {
        image.data[4 * code + i] = count ? low[i] + heat * (high[i] - low[i]) : dead[i];
      }
      image.data[4 * code + 3] = 255;
    });
    context.putImageData(image, 0, 0);
    canvas.onmousemove = (event) => {
      const column = Math.min(side - 1, Math.floor((event.offsetX / canvas.clientWidth) * side));
      const line = Math.floor((event.offsetY / canvas.clientHeight) * canvas.height);
      const code = line * side + column;
      canvas.title = code < usage.length ? `code ${code}: ${many(usage[code], "item")}` : "";
    };
  }

  function search(input, results, items, views) {
    const words = input.value.trim();
    results.replaceChildren();
    if (!words) return;
    const sid = words.split(/[\s,/]+/).filter(Boolean).map(Number);
    if (sid.every(Number.isInteger) && views[0].goTo(sid)) return;
    const found = items.find(words);
    const more = found.length === HITS ? `the first ${HITS} items` : many(found.length, "item");
    results.append(make("p", "note", found.length ? more : "no item has this in its title"));
    for (const item of found) {
      const line = make("button", "hit");
      line.append(make("span", "sid", views[0].trie.sidAt(item).join("/")), make("span", "title", items.title(item)));
      line.addEventListener("click", () => views.forEach((view) => view.goToItem(item)));
      results.append(line);
    }
  }

  async function start() {
    const header = JSON.parse(byId("tree-header").textContent);
    const buffer = await unpack(byId("tree-data").textContent.trim());
    const arrays = {};
    for (const [name, [type, offset, length]] of Object.entries(header.arrays)) {
      arrays[name] = new ARRAYS[type](buffer, offset, length);
    }
    const items = new Items(arrays, header.categories);
    const views = header.trees.map((levels, which) =>
      new View(byId(`tree-${which}`), new Trie(arrays, which, levels, which ? arrays.other_items : undefined),
        items, which ? "other" : ""));
    if (views.length === 2) {
      [views[0].other, views[1].other] = [views[1], views[0]];
      views.forEach((view) => view.reset());
    }
    const draw = () => document.querySelectorAll("canvas[data-usage]").forEach((canvas) =>
      drawUsage(canvas, arrays[canvas.dataset.usage]));
    draw();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
    byId("order").addEventListener("change", (event) => views.forEach((view) => {
      view.bySize = event.target.value === "size";
      view.reset();
    }));
    byId("search").addEventListener("submit", (event) => {
      event.preventDefault();
      search(byId("words"), byId("results"), items, views);
    });
    const follow = () => {
      const [, other, path] = location.hash.match(/^#(other)?\/([\d/]+)$/) || [];
      const view = views[other ? 1 : 0];
      if (path && view) view.goTo(path.split("/").filter(Boolean).map(Number));
    };
    addEventListener("hashchange", follow);
    follow();
    document.documentElement.dataset.tree = "ready";
  }

  start().catch((error) => {
    byId("tree-0").replaceChildren(make("li", "failed",
      `The tree cannot be shown (${error}). It needs a browser of 2023 or later.`));
    throw error;
  });
})();
