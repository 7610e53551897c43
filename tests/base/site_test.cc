#include "models/base/site.h"

#include "gtest/gtest.h"

namespace eigsvc {
namespace {

TEST(SiteTest, OrderIsLayerMixerKindUnit) {
  const Site base{1, "b", UnitKind::kHead, 5};
  EXPECT_EQ(base, (Site{1, "b", UnitKind::kHead, 5}));
  EXPECT_LT((Site{0, "z", UnitKind::kLayer, 9}), base);
  EXPECT_LT((Site{1, "a", UnitKind::kLayer, 9}), base);
  EXPECT_LT(base, (Site{1, "b", UnitKind::kChannel, 0}));
  EXPECT_LT(base, (Site{1, "b", UnitKind::kHead, 6}));
}

TEST(SiteTest, UnitKindsHaveTheirPublicNames) {
  EXPECT_EQ(UnitKindName(UnitKind::kHead), "head");
  EXPECT_EQ(UnitKindName(UnitKind::kChannel), "channel");
  EXPECT_EQ(UnitKindName(UnitKind::kLayer), "layer");
}

}  // namespace
}  // namespace eigsvc
