// The names that settings give to the values of enumerations.
#pragma once

#include "engine/json_values.h"
#include "moba/config.h"

namespace moba {

inline json_values::Names<ComputeDType> dtype_names() {
  return {{"auto", ComputeDType::kAuto},         {"float32", ComputeDType::kFloat32},
          {"bfloat16", ComputeDType::kBFloat16}, {"float", ComputeDType::kFloat32},
          {"fp32", ComputeDType::kFloat32},      {"f32", ComputeDType::kFloat32},
          {"bf16", ComputeDType::kBFloat16},     {"float16", ComputeDType::kFloat16},
          {"fp16", ComputeDType::kFloat16},      {"f16", ComputeDType::kFloat16},
          {"half", ComputeDType::kFloat16}};
}

inline json_values::Names<AttentionMode> attention_mode_names() {
  return {{"auto", AttentionMode::kAuto},
          {"full", AttentionMode::kFull},
          {"moba", AttentionMode::kMoba}};
}

inline json_values::Names<DecodeAttention> decode_attention_names() {
  return {{"moba", DecodeAttention::kMoba}, {"full", DecodeAttention::kFull}};
}

}  // namespace moba
