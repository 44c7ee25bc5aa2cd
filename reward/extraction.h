// Finding the answer in a completion. One pass over the text for each place, any bytes, no regular expressions.
//
// The places and their order are the recipe's (proto/recipe.proto, Extraction). When the text has a </think>, only what
// follows the last one is searched; an opened <think> that is never closed leaves nothing to search.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/recipe.pb.h"

namespace grouper {

enum class Place { kAnswerTag, kBoxed, kHash, kAnswerIs, kLastMath, kLastNumber, kWhole };

struct Extracted {
  bool found = false;
  Place place = Place::kWhole;
  absl::string_view text;  // inside the completion, white space trimmed
};

// Unknown names are InvalidArgument, listing the known ones. No places: `defaults`.
absl::StatusOr<std::vector<Place>> ParsePlaces(const v1::Extraction& extraction, std::vector<Place> defaults);

Extracted Extract(absl::string_view completion, const std::vector<Place>& places);

// What follows the last </think>; all of the text when it has neither tag; empty when a <think> is never closed.
absl::string_view AfterThink(absl::string_view text);

// One place, in text that AfterThink has cut.
Extracted ExtractFrom(absl::string_view text, Place place);

// Content of the box whose "\boxed{" or "\fbox{" starts at `begin`; end is one past its closing brace. Not found when
// it is not closed.
// "\boxed 7" (without braces) holds the run of characters up to white space or '$'.
struct Box {
  bool found = false;
  absl::string_view content;
  size_t end = 0;
};
Box BoxAt(absl::string_view text, size_t begin);
// Where "\)" or "\]" stands, at `from` or after it; npos: nowhere.
size_t FindClose(absl::string_view text, char bracket, size_t from);
// Offsets of every "\boxed" and "\fbox", ascending, at most `limit` last ones.
std::vector<size_t> FindBoxes(absl::string_view text, size_t limit);

}  // namespace grouper
