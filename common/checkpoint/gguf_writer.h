// Writes a GGUF v3 file (grammar in gguf.h): metadata in the order in which it was added, then tensors, each at a multiple of 32 bytes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "common/base/file.h"
#include "common/checkpoint/safetensors_writer.h"

namespace grouper {

class GgufWriter {
 public:
  // Metadata. A key is added once.
  void AddUint32(const std::string& key, uint32_t value);
  void AddFloat32(const std::string& key, float value);
  void AddBool(const std::string& key, bool value);
  void AddString(const std::string& key, const std::string& value);
  void AddStrings(const std::string& key, const std::vector<std::string>& values);
  void AddInt32s(const std::string& key, const std::vector<int32_t>& values);
  void AddFloat32s(const std::string& key, const std::vector<float>& values);

  // Creates `path`, calls write_tensor for each tensor in order, syncs and closes. write_tensor appends exactly the tensor's bytes. Types: F32, F16,
  // BF16, Q8_0, Q4_0, Q4_K; shapes outermost first.
  absl::Status Write(FileSystem& fs, const std::string& path, const std::vector<TensorSpec>& tensors, WriteTensor write_tensor) const;

 private:
  void AddKey(const std::string& key, uint32_t type);
  std::string metadata_;
  uint64_t count_ = 0;
};

}  // namespace grouper
