// The test framework, whichever major version the system has: Catch2 v3 (several headers) or v2
// (one).
#pragma once

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
using Catch::Approx;
#else
#include <catch2/catch.hpp>
#endif
