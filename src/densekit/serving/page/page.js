// Sends each picture that is chosen, dropped or pasted to the server, and shows what it answers.

const AT_ONCE = 4; // requests under way: the server answers together what comes in while it computes
const PICTURE = /\.(jpe?g|jpe|jfif|png|gif|bmp|dib|webp|tiff?|jp2|avif|hei[cf]|hif|p[bgpn]m)$/i;

const find = (selector, root = document) => root.querySelector(selector);
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const model = await ask("model").catch((error) => {
  find("#figures").textContent = error.message;
  throw error;
});
const answers = []; // of all pictures so far, in the order in which they were given
let given = 0;

describe();
find("#files").addEventListener("change", ({ target }) => {
  take([...target.files]);
  target.value = ""; // so that the same file can be chosen again
});
document.addEventListener("paste", ({ clipboardData }) => take([...clipboardData.files]));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  find("#drop").classList.add("over");
});
document.addEventListener("dragleave", () => find("#drop").classList.remove("over"));
document.addEventListener("drop", async (event) => {
  event.preventDefault();
  find("#drop").classList.remove("over");
  const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
  take(await allFilesOf(entries));
});
find("#save").addEventListener("click", save);

/** Ask the server; its one-line error becomes an Error. */
async function ask(path, form) {
  let response;
  try {
    response = await fetch(path, form && { method: "POST", body: form });
  } catch {
    throw new Error("the server does not answer");
  }
  if (response.headers.get("content-type") === "image/png") return response.blob();
  const answer = await response.json().catch(() => ({ error: `${response.status} ${response.statusText}` }));
  if (answer.error) throw new Error(answer.error);
  return answer;
}

function describe() {
  document.title = `${model.model} - densekit`;
  find("#model").textContent = `${model.model}, ${model.classes.length} ${model.multilabel ? "labels" : "classes"}`;
  find("#classes").textContent = model.classes.join(", ");
  if (model.multilabel) find("#kind").textContent = "Labels";
  const test = model.test;
  const [low, high] = test ? test.accuracy_interval_95.map(percent) : [];
  const precision = test?.mean_average_precision;
  const right = model.multilabel ? "Every label right" : "Right";
  find("#figures").textContent = test
    ? `${precision ? `Mean average precision ${percent(precision)}. ` : ""}${right} on ${percent(test.accuracy)} of ${test.pictures.toLocaleString("en")} test pictures (95 % interval ${low} to ${high}).`
    : "Not tested yet: densekit evaluate tells how often it is right.";
  const here = new URL(".", location.href).href;
  find("#commands").textContent = [
    `curl -F pictures=@a.jpg -F pictures=@b.jpg '${here}predict?top=3'`,
    ...(model.explains ? [`curl -F picture=@a.jpg '${here}explain' -o why.png`] : []),
    `curl '${here}model'`,
  ].join("\n");
}

/** The files of a dropped file, or the pictures in a dropped folder. */
async function filesOf(entry) {
  if (entry.isFile) return [await new Promise((done, fail) => entry.file(done, fail))];
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((done, fail) => reader.readEntries(done, fail)); // a hundred at a time
    if (!some.length) break;
    found.push(...some);
  }
  found.sort((one, other) => one.name.localeCompare(other.name));
  const wanted = found.filter((inner) => inner.isDirectory || PICTURE.test(inner.name));
  return allFilesOf(wanted);
}

/** Those of all that can be read. */
async function allFilesOf(entries) {
  const found = await Promise.allSettled(entries.map(filesOf));
  return found.flatMap(({ value = [] }) => value);
}

async function take(files) {
  if (!files.length) return; // e.g. text that was pasted
  const cards = files.map((file) => newCard(file));
  find("#answers").prepend(...cards);
  const queue = files.map((file, index) => [file, cards[index], given + index]);
  given += files.length;
  tell();
  const work = async () => {
    for (let next = queue.shift(); next; next = queue.shift()) await answer(...next);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
}

function newCard(file) {
  const card = find("#answer").content.cloneNode(true).firstElementChild;
  const picture = find("img", card);
  picture.addEventListener("load", () => picture.classList.toggle("tiny", picture.naturalWidth < 100));
  picture.addEventListener("error", () => picture.remove()); // a format that browsers do not show
  picture.src = URL.createObjectURL(file);
  find(".name", card).textContent = file.name;
  return card;
}

async function answer(file, card, place) {
  const form = new FormData();
  form.append("pictures", file);
  try {
    [answers[place]] = await ask("predict", form);
    answers[place].path = file.name; // as it is here: forms write quotes and line breaks in another way
  } catch (error) {
    answers[place] = { path: file.name, error: error.message };
  }
  const { top = [], error } = answers[place];
  const found = foundIn(answers[place]);
  find(".error", card).textContent = error ?? "";
  find(".error", card).hidden = !error;
  find(".picture", card).hidden = Boolean(error);
  find("ol", card).replaceChildren(...top.map((entry) => newLikely(entry, found.includes(entry.label), file, card)));
  tell();
}

/** The names that are the answer. */
function foundIn({ top = [], labels }) {
  return labels ?? top.slice(0, 1).map(({ label }) => label);
}

function newLikely({ label, probability }, found, file, card) {
  const item = find("#likely").content.cloneNode(true).firstElementChild;
  item.classList.toggle("found", found);
  const button = find("button", item);
  find(".label", item).textContent = label;
  find(".share", item).textContent = percent(probability);
  find("meter", item).value = probability;
  button.disabled = !model.explains;
  button.title = model.explains ? `Why ${label}?` : "";
  button.addEventListener("click", () => explain(label, button, file, card));
  return item;
}

/** Lay the evidence for a class over the picture, or take it away again. */
async function explain(label, button, file, card) {
  const heat = find(".heat", card);
  const shown = button.getAttribute("aria-pressed") === "true";
  for (const other of card.querySelectorAll("button")) other.setAttribute("aria-pressed", "false");
  heat.hidden = true;
  find(".error", card).hidden = true;
  if (shown) return;
  button.setAttribute("aria-pressed", "true");
  const form = new FormData();
  form.append("picture", file);
  form.append("label", label);
  try {
    const drawn = URL.createObjectURL(await ask("explain", form));
    if (button.getAttribute("aria-pressed") !== "true") return; // another was chosen meanwhile
    URL.revokeObjectURL(heat.src);
    heat.src = drawn;
    heat.alt = `What speaks for ${label}`;
    heat.hidden = false;
  } catch (error) {
    if (button.getAttribute("aria-pressed") !== "true") return;
    button.setAttribute("aria-pressed", "false");
    find(".error", card).textContent = error.message;
    find(".error", card).hidden = false;
  }
}

function tell() {
  const done = answers.filter(Boolean).length;
  const all = given === 1 ? "1 picture" : `${given} pictures`;
  find("#progress span").textContent = done < given ? `${done} of ${all} answered` : all;
  find("#save").hidden = done < given;
  find("#hint").hidden = !(done && model.explains);
}

/** Offer the answers as the file that densekit predict --format csv writes. */
function save() {
  const rows = answers.flatMap((answer) => {
    const { path, top, error } = answer;
    if (error) return [[path, "", "", "", error, ""]];
    const found = foundIn(answer);
    return top.map(({ label, probability }, i) => [path, i + 1, label, probability, "", Number(found.includes(label))]);
  });
  const quote = (value) => (/[",\n\r]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value);
  const header = ["path", "rank", "label", "probability", "error", "answer"];
  const lines = [header, ...rows].map((row) => row.map(quote).join(","));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([`${lines.join("\n")}\n`], { type: "text/csv" }));
  link.download = "answers.csv";
  link.click();
  URL.revokeObjectURL(link.href);
}
