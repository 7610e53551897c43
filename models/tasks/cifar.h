// CIFAR-10 (Krizhevsky 2009) pixel by pixel: which of ten things does the picture show? From the published
// binary batches or the pickled ones, in folders or in the .tar.gz they come in.
//
// A sequence is the 1024 pixels, row by row, as grey levels: tokens 0 to 255, or real numbers with the mean
// and deviation that arXiv 2510.09379 uses; or as three real numbers a pixel (red, green, blue). Train
// pictures are served in an order drawn from the seed, test pictures in the files' order.
#pragma once

#include "models/tasks/task.h"

namespace eigsvc {

TaskEntry CifarEntry();  // the entry of the registry

}  // namespace eigsvc
