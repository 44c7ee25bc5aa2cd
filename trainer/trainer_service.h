// TrainerService over a RunControl.
#pragma once

#include <memory>

#include "proto/trainer.grpc.pb.h"
#include "trainer/run_control.h"

namespace grouper {

// `control` must outlive the service.
std::unique_ptr<v1::TrainerService::Service> MakeTrainerService(RunControl& control);

}  // namespace grouper
