// Included before everything else where code built with ThreadSanitizer meets the system's libprotobuf, which
// is not: protobuf's map_field.h gives map fields two more members under the sanitizer, and messages would
// not have the layout that the library was built with.
#pragma once

#include <memory>  // the standard library settles its own view of the sanitizer here

#pragma push_macro("__SANITIZE_THREAD__")
#undef __SANITIZE_THREAD__
#include <google/protobuf/map_field.h>
#pragma pop_macro("__SANITIZE_THREAD__")
