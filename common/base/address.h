// Addresses of our services as people write them: HOST:PORT. A text that gRPC would take for something else ("127.0.0.1" is its port 443,
// port 99999 is its 34463) is an error here.
//
//   HOST:PORT, [IPv6]:PORT     HOST is a name or four numbers with dots
//   dns:HOST:PORT, dns:///HOST:PORT, ipv4:HOST:PORT, ipv6:[IPv6]:PORT
//   unix:PATH, unix-abstract:NAME
#pragma once

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace grouper {

// InvalidArgument beginning with the address and saying what is expected. Nothing is looked up or opened.
absl::Status CheckListenAddress(absl::string_view address);  // port 0..65535; 0: any free one
absl::Status CheckPeerAddress(absl::string_view address);    // port 1..65535

}  // namespace grouper
