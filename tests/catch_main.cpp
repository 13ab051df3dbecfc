// The one translation unit that instantiates Catch2 v2; with v3 the main function comes from its
// library.
#define CATCH_CONFIG_MAIN
#include <catch2/catch.hpp>
