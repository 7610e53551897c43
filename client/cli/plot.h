// Plot: distributions of |λ| as blocks of text, one panel a layer, several runs side by side on one axis.
#pragma once

#include <string>
#include <vector>

#include "client/cli/layer_spectrum.h"
#include "client/cli/style.h"

namespace eigsvc::cli {

// One run's layers under its heading. Runs shown together have the same layers in the same order.
struct PlotRun {
  std::string heading;
  std::vector<LayerSpectrum> layers;
};

// Text with title, panels and axes, as wide as style.columns at most. Empty when no run has an eigenvalue.
std::string RenderPlot(const std::vector<PlotRun>& runs, const Style& style);

}  // namespace eigsvc::cli
