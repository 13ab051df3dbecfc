#include "model/safetensors.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "device/check.h"
#include "model/json_file.h"
#include "model/mapped_file.h"
#include "model/safetensors_header.h"

namespace moba {
namespace {

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";

std::optional<DType> engine_dtype(std::string_view name) {
  if (name == "F32") return DType::kFloat32;
  if (name == "BF16") return DType::kBFloat16;
  if (name == "F16") return DType::kFloat16;
  if (name == "I32") return DType::kInt32;
  if (name == "I64") return DType::kInt64;
  return std::nullopt;
}

CheckpointTensor make_entry(SafetensorsRecord record, const std::filesystem::path& path,
                            const MappedFile& file) {
  CheckpointTensor entry;
  entry.name = std::move(record.name);
  entry.dtype = record.dtype;
  entry.shape = std::move(record.shape);
  entry.num_bytes = record.end - record.begin;
  entry.data = file.data() + record.begin;
  entry.file = path;
  entry.element_type = engine_dtype(entry.dtype);
  if (entry.element_type && entry.shape.size() <= Shape::kMaxRank) {
    // Views carry no constness; weights are never outputs of an operation.
    entry.tensor = TensorView(const_cast<std::byte*>(entry.data), *entry.element_type,
                              Shape::from(entry.shape));
  }
  return entry;
}

// shard file name -> names of the tensors that the index puts there, sorted.
using ShardMap = std::map<std::string, std::vector<std::string>>;

ShardMap read_index(const std::filesystem::path& path) {
  const nlohmann::json index = load_json_object(path);
  const auto weight_map = index.find("weight_map");
  MOBA_CHECK(weight_map != index.end() && weight_map->is_object(), path.string(),
             ": weight_map is missing or not an object");
  MOBA_CHECK(!weight_map->empty(), path.string(), ": weight_map is empty");
  ShardMap shards;
  for (const auto& [tensor, value] : weight_map->items()) {
    MOBA_CHECK(value.is_string(), path.string(), ": tensor ", in_quotes(tensor),
               ": its shard must be a file name");
    const auto& shard = value.get_ref<const std::string&>();
    // Shards lie beside the index: a path could name any file of the machine.
    const bool plain = !shard.empty() && shard != "." && shard != ".." &&
                       shard.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos;
    MOBA_CHECK(plain, path.string(), ": tensor ", in_quotes(tensor), ": shard ", in_quotes(shard),
               " is not a plain file name");
    shards[shard].push_back(tensor);  // items() come in order of name
  }
  return shards;
}

}  // namespace

struct Safetensors::State {
  std::filesystem::path path;
  std::vector<MappedFile> files;
  std::vector<CheckpointTensor> entries;
  std::size_t num_bytes = 0;

  void load_file(const std::filesystem::path& file_path) {
    MappedFile file(file_path);
    for (SafetensorsRecord& record : read_safetensors_header(file_path, file)) {
      entries.push_back(make_entry(std::move(record), file_path, file));
    }
    files.push_back(std::move(file));
  }

  void load_shards(const std::filesystem::path& index_path) {
    const ShardMap shards = read_index(index_path);
    std::map<std::string_view, std::string_view> shard_of;
    for (const auto& [shard, tensors] : shards) {
      for (const std::string& tensor : tensors) shard_of[tensor] = shard;
    }
    for (const auto& [shard, tensors] : shards) {
      const std::filesystem::path shard_path = index_path.parent_path() / shard;
      std::error_code ignored;
      MOBA_CHECK(std::filesystem::exists(shard_path, ignored), index_path.string(), ": shard ",
                 in_quotes(shard), " (of tensor ", in_quotes(tensors.front()), ") does not exist");
      MappedFile file(shard_path);
      const std::size_t first = entries.size();
      for (SafetensorsRecord& record : read_safetensors_header(shard_path, file)) {
        const auto listed = shard_of.find(record.name);
        if (listed == shard_of.end()) continue;
        MOBA_CHECK(listed->second == shard, shard_path.string(), ": tensor ",
                   in_quotes(record.name), " is here and, by the index, in ",
                   in_quotes(listed->second));
        entries.push_back(make_entry(std::move(record), shard_path, file));
      }
      check_present(shard_path, tensors, first);
      files.push_back(std::move(file));
    }
  }

  // All of `tensors` must be among the entries from `first` on.
  void check_present(const std::filesystem::path& shard_path,
                     const std::vector<std::string>& tensors, std::size_t first) const {
    std::set<std::string_view> present;
    for (std::size_t i = first; i < entries.size(); ++i) present.insert(entries[i].name);
    for (const std::string& tensor : tensors) {
      MOBA_CHECK(present.contains(tensor), shard_path.string(), ": tensor ", in_quotes(tensor),
                 " is not in this shard, where the index puts it");
    }
  }

  void finish() {
    std::sort(entries.begin(), entries.end(),
              [](const CheckpointTensor& a, const CheckpointTensor& b) { return a.name < b.name; });
    for (const CheckpointTensor& entry : entries) num_bytes += entry.num_bytes;
  }
};

Safetensors::Safetensors(const std::filesystem::path& path) : state_(std::make_unique<State>()) {
  state_->path = path;
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    const std::filesystem::path single = path / kSingleFile;
    const std::filesystem::path index = path / kIndexFile;
    if (std::filesystem::exists(single, ignored)) {
      state_->load_file(single);
    } else {
      MOBA_CHECK(std::filesystem::exists(index, ignored), path.string(), ": holds no ", kSingleFile,
                 " and no ", kIndexFile);
      state_->load_shards(index);
    }
  } else {
    state_->load_file(path);
  }
  state_->finish();
}

Safetensors::~Safetensors() = default;

const CheckpointTensor* Safetensors::find(std::string_view name) const {
  const auto& all = state_->entries;
  const auto it = std::lower_bound(
      all.begin(), all.end(), name,
      [](const CheckpointTensor& entry, std::string_view key) { return entry.name < key; });
  return it != all.end() && it->name == name ? &*it : nullptr;
}

const std::vector<CheckpointTensor>& Safetensors::entries() const { return state_->entries; }
std::size_t Safetensors::num_bytes() const { return state_->num_bytes; }
const std::filesystem::path& Safetensors::path() const { return state_->path; }
void Safetensors::prefetch() const {
  for (const MappedFile& file : state_->files) file.prefetch();
}

}  // namespace moba
