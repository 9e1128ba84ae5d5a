// Shows the value under the pointer in one place. Without this script, each shape still has it as its title.
const read = document.getElementById("read");
document.addEventListener("pointerover", (event) => {
  const title = event.target.querySelector?.(":scope > title");
  read.textContent = title ? title.textContent : "";
});
// Saves the result that is embedded in this page.
for (const data of document.querySelectorAll("script[type='application/json']")) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([data.textContent], { type: "application/json" }));
  link.download = `${data.id}.json`;
  link.textContent = `Save ${data.id}.json`;
  document.getElementById("save").append(link, " ");
}
