// The answer: the commands that export its models can be copied.

async function copyCommand(button) {
  const said = button.nextElementSibling;
  try {
    await copyText(button.previousElementSibling.textContent);
    said.textContent = "Copied.";
  } catch (error) {
    said.textContent = `Not copied: ${error.message}.`;
  }
}

function connectAnswer() {
  get("answer").addEventListener("click", (event) => {
    const button = event.target.closest("button.copy");
    if (button) copyCommand(button);
  });
}

sections.push({ connect: connectAnswer });
