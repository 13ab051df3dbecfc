// What the shared library shows: what is marked MOBA_API. MOBA_LOCAL hides a part of that again.
#pragma once

#define MOBA_API __attribute__((visibility("default")))
#define MOBA_LOCAL __attribute__((visibility("hidden")))
