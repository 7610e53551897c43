// The declared edges of Spectrum and what lies between them: shared with the kernels that count on a device.
#pragma once

#include <array>
#include <limits>

namespace eigsvc::spectrum_edges {

// The line of log|λ| without 0 is cut at the declared edges into classes: below an edge, on it, above it.
// Counting classes instead of comparing with every edge costs two comparisons a value: a bin is at most one
// edge wide, so its lower end gives the class but for that edge.
constexpr double kLog0_1 = -0x1.26bb1bbb55515p+1;
constexpr double kLog0_5 = -0x1.62e42fefa39efp-1;
constexpr double kLog0_9 = -0x1.af8e8210a415cp-4;
constexpr double kLog0_99 = -0x1.495453e6fd4bcp-7;
constexpr double kLog1_01 = 0x1.460d6ccca367cp-7;
constexpr double kLog10 = 0x1.26bb1bbb55516p+1;
constexpr double kLog100 = 0x1.26bb1bbb55516p+2;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

constexpr int kClasses = 16;
constexpr int kFirstPositiveClass = 9;
// By class of a bin's lower end: the next edge of |log|λ||.
constexpr std::array<double, kClasses> kNextEdge = {
    -kLog0_99, 0, -kLog0_9, 0, -kLog0_5, 0, -kLog0_1, 0, kInfinity,  // λ < 1
    kLog1_01,  0, kLog10,   0, kLog100,  0, kInfinity};              // λ > 1
constexpr std::array<int, kClasses> kPaperBinOfClass = {3, 3, 3, 3, 2, 2, 1, 1, 0, 4, 4, 4, 4, 5, 5, 6};
constexpr std::array<bool, kClasses> kNear1 = {true,  true,  false, false, false, false,
                                               false, false, false, true,  true};
constexpr std::array<bool, kClasses> kAtMost0_1 = {false, false, false, false, false,
                                                   false, false, true,  true};

constexpr int kEdges = 7;
constexpr std::array<double, kEdges + 1> kEdgeLogs = {kLog0_99, kLog0_9, kLog0_5, kLog0_1,
                                                      kLog1_01, kLog10,  kLog100, 0};
// Classes on the edges 0.1, 0.5, 0.9 and 10 of the paper's bins.
constexpr std::array<int, 4> kClassOnPaperEdge = {7, 5, 3, 12};

// Phases are cut at 1, 10, 45 and 90 degrees into classes likewise: below an edge, on it, above it.
constexpr int kPhaseClasses = 9;
constexpr double kDegree = 3.141592653589793 / 180;

// |log|λ|| enters the moments as this at most, so that 2^39 values fit.
constexpr double kMomentLimit = 0x1p16;

}  // namespace eigsvc::spectrum_edges
