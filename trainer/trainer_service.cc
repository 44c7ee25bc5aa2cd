#include "trainer/trainer_service.h"

namespace grouper {
namespace {

class ServiceOverControl : public v1::TrainerService::Service {
 public:
  explicit ServiceOverControl(RunControl& control) : control_(control) {}

  grpc::Status GetStatus(grpc::ServerContext*, const v1::TrainerStatusRequest*, v1::TrainerStatus* status) override {
    *status = control_.Status();
    return grpc::Status::OK;
  }
  grpc::Status StreamMetrics(grpc::ServerContext* context, const v1::StreamMetricsRequest*, grpc::ServerWriter<v1::MetricsRow>* writer) override {
    uint64_t next = control_.next_row();
    std::deque<std::string> rows;
    while (!context->IsCancelled() && control_.Rows(&next, absl::Milliseconds(500), &rows)) {
      for (const std::string& json : rows) {
        v1::MetricsRow row;
        row.set_json(json);
        if (!writer->Write(row)) return grpc::Status::OK;
      }
    }
    return grpc::Status::OK;
  }
  grpc::Status CheckpointNow(grpc::ServerContext*, const v1::CheckpointNowRequest*, v1::CheckpointNowResponse* response) override {
    response->set_path(control_.CheckpointNow(absl::Minutes(10)));
    if (response->path().empty()) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "the run ended, or no step finished within 10 minutes");
    return grpc::Status::OK;
  }
  grpc::Status Pause(grpc::ServerContext*, const v1::PauseRequest*, v1::PauseResponse*) override {
    control_.Pause();
    return grpc::Status::OK;
  }
  grpc::Status Resume(grpc::ServerContext*, const v1::ResumeRequest*, v1::ResumeResponse*) override {
    control_.Resume();
    return grpc::Status::OK;
  }
  grpc::Status Stop(grpc::ServerContext*, const v1::StopRequest*, v1::StopResponse*) override {
    control_.RequestStop();
    return grpc::Status::OK;
  }

 private:
  RunControl& control_;
};

}  // namespace

std::unique_ptr<v1::TrainerService::Service> MakeTrainerService(RunControl& control) { return std::make_unique<ServiceOverControl>(control); }

}  // namespace grouper
