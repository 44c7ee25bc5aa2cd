// What a stop of the run (RunControl) does to sampling and scoring that are under way.
#pragma once

namespace grouper {

enum class AtStop {
  kFinish,  // goes on while it gets somewhere: a step is finished
  kCancel,  // ends at once, Cancelled: an evaluation, which may take hours and is made again after --resume
};

}  // namespace grouper
