// Behind a proxy that ends TLS the server does not know its own address; the browser does.
"use strict";

fedlas.onEach("[data-origin]", (place) => {
  if (place.dataset.origin === location.origin) return;
  for (const code of place.querySelectorAll("pre code")) {
    code.textContent = code.textContent.replaceAll(place.dataset.origin, location.origin);
  }
});
