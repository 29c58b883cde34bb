"use strict";

// Data of the cluster is set as text or as a number, never as markup.

const byId = (id) => document.getElementById(id);

// setText does not touch a text that is right already, so that screen readers read out
// only what has changed.
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function setAttribute(element, name, value) {
  if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

function make(namespace, tag, attributes, children) {
  const element = document.createElementNS(namespace, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const html = (tag, attributes = {}, ...children) => make("http://www.w3.org/1999/xhtml", tag, attributes, children);
const svg = (tag, attributes = {}, ...children) => make("http://www.w3.org/2000/svg", tag, attributes, children);

// replace replaces the children of an element if their source has changed.
function replace(element, source, childrenOf) {
  const key = JSON.stringify(source);
  if (element.dataset.key === key) return;
  element.dataset.key = key;
  element.replaceChildren(...childrenOf(source));
}

const plural = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;

const twoDigits = (n) => String(n).padStart(2, "0");

// clock formats the local time of day.
function clock(time, withSeconds = true) {
  const t = new Date(time);
  const minutes = `${twoDigits(t.getHours())}:${twoDigits(t.getMinutes())}`;
  return withSeconds ? `${minutes}:${twoDigits(t.getSeconds())}` : minutes;
}

function duration(milliseconds) {
  const s = Math.max(0, Math.floor(milliseconds / 1000));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor(s / 60) % 60} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor(s / 3600) % 24} h`;
}

// figure formats a number with about three digits.
function figure(x) {
  if (x >= 100 || x === 0) return String(Math.round(x));
  return x.toFixed(x >= 10 ? 1 : 2);
}

// ranges formats ascending numbers as in "0-3, 7".
function ranges(numbers) {
  const parts = [];
  for (let i = 0; i < numbers.length;) {
    const first = i;
    while (numbers[i + 1] === numbers[i] + 1) i++;
    parts.push(i > first ? `${numbers[first]}-${numbers[i]}` : `${numbers[i]}`);
    i++;
  }
  return parts.join(", ");
}
