// The ways by which a file comes in: chosen, dragged, pasted, photographed.

import { button, icon, make } from "./dom.js";

/** Let files reach `attachments`, wherever on the page they arrive. */
export function takeIn(attachments, { input, zone, camera, arrived }) {
  const add = async (files) => {
    if (!files?.length) return;
    await attachments.add([...files]);
    arrived();
  };
  input.addEventListener("change", async () => {
    await add(input.files);
    input.value = ""; // the same file may be chosen again
  });
  document.addEventListener("paste", (event) => {
    if (!event.clipboardData?.files.length) return; // text goes where it belongs
    event.preventDefault();
    add(event.clipboardData.files);
  });
  let depth = 0; // enter and leave come for every element on the way
  const holdsFiles = (event) => event.dataTransfer?.types.includes("Files");
  const mark = () => zone.classList.toggle("dropping", depth > 0);
  document.addEventListener("dragenter", (event) => {
    if (!holdsFiles(event)) return;
    depth += 1;
    mark();
  });
  document.addEventListener("dragleave", (event) => {
    if (!holdsFiles(event)) return;
    depth = Math.max(0, depth - 1);
    mark();
  });
  document.addEventListener("dragover", (event) => holdsFiles(event) && event.preventDefault());
  document.addEventListener("drop", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault(); // or the browser would open the file instead of the page
    depth = 0;
    mark();
    add(event.dataTransfer.files);
  });
  camera.addEventListener("click", () => photograph(add));
}

/** Show the camera, and hand over one picture. */
async function photograph(add) {
  const video = make("video", { autoplay: true, playsinline: true, muted: true });
  const dialog = make("dialog", { class: "camera", label: "media.camera" });
  let stream = null;
  dialog.addEventListener("close", () => {
    for (const track of stream?.getTracks() ?? []) track.stop();
    dialog.remove();
  });
  const take = button("camera.take", async () => {
    const canvas = make("canvas", { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext("2d").drawImage(video, 0, 0);
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
    dialog.close();
    await add([new File([blob], `camera-${Date.now()}.jpg`, { type: "image/jpeg" })]);
  }, { class: "primary", disabled: true });
  dialog.append(icon("×", "dialog.close", () => dialog.close()), video, take);
  document.body.append(dialog);
  dialog.showModal();
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    if (!dialog.isConnected) for (const track of stream.getTracks()) track.stop(); // closed while permission was asked
    video.srcObject = stream;
    await video.play();
    take.disabled = false;
    take.focus();
  } catch {
    video.replaceWith(make("p", { class: "problem", role: "alert", text: "camera.none" }));
    take.remove();
  }
}
