// Draws every figure from the data beside it. What goes wrong is said on the page, and counted on its root element.
(function () {
  "use strict";
  var root = document.documentElement, told = [];
  function trouble(text) {
    told.push(String(text));
    root.setAttribute("data-errors", told.length);
    root.setAttribute("data-first-error", told[0]);
    var place = document.getElementById("trouble");
    if (place) { place.style.display = "block"; place.textContent = "This page could not be drawn whole: " + told[0]; }
  }
  window.addEventListener("error", function (event) { trouble(event.message); });
  window.addEventListener("unhandledrejection", function (event) { trouble(event.reason); });
  document.addEventListener("securitypolicyviolation", function (event) {
    trouble(event.violatedDirective + " " + event.blockedURI);
  });
  root.setAttribute("data-errors", 0);
  root.setAttribute("data-drawn", 0);
  document.addEventListener("DOMContentLoaded", function () {
    var figures = Array.prototype.slice.call(document.querySelectorAll(".figure")), drawn = 0;
    var options = { displaylogo: false, displayModeBar: "hover", responsive: true, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };
    function next() {
      var place = figures.shift();
      if (!place) { root.setAttribute("data-done", "yes"); return; }
      var data;
      try { data = JSON.parse(document.getElementById(place.id + "-data").textContent); }
      catch (error) { trouble(place.id + ": " + error); return next(); }
      Plotly.newPlot(place, data.data, data.layout, options).then(function () {
        drawn += 1;
        place.setAttribute("data-traces", data.data.length);
        root.setAttribute("data-drawn", drawn);
      }).catch(function (error) { trouble(place.id + ": " + error); }).then(next);
    }
    next();
  });
}());
