mock_provider "aws" {
  source = "../mocks"
}

variables {
  region            = "eu-west-1"
  hub_image_id      = "ami-0a1b2c3d4e5f60718"
  spoke_image_id    = "ami-1a1b2c3d4e5f60718"
  hub_public_key    = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="
  self_test_targets = ["192.0.2.1:443", "198.51.100.1:443"]
}

run "the_whole_cloud_is_made_from_one_document" {
  assert {
    condition     = output.hub_address == "198.51.100.100" && output.hub_public_key == var.hub_public_key
    error_message = "What spokes elsewhere are told of the hub."
  }
  assert {
    condition     = join(" ", keys(output.vpcs)) == "client-a client-b hub" && join(" ", keys(output.spokes)) == "client-a client-b hub"
    error_message = "A hub's VPC and two clients', each with its spokes."
  }
  assert {
    condition = alltrue([for name, vpc in output.vpcs :
      join(" ", vpc.zones) == "eu-west-1a eu-west-1b"
      && length(vpc.public_subnet_ids) == 2 && length(vpc.private_subnet_ids) == 2
      && length(vpc.private_route_table_ids) == 2 && length(output.spokes[name].groups) == 2
    ])
    error_message = "Subnets and a spoke in each of two zones."
  }
  assert {
    condition     = output.vpcs["hub"].cidr == "10.0.0.0/16" && output.vpcs["client-b"].cidr == "10.2.0.0/16"
    error_message = "The same CIDRs as in cloud.yaml."
  }
  assert {
    condition     = alltrue([for spokes in output.spokes : length(spokes.egress_addresses) == 0])
    error_message = "No Elastic IPs where none are asked for."
  }
}

run "with_elastic_ips_in_three_zones" {
  variables {
    zones     = 3
    addresses = "each"
  }
  assert {
    condition     = alltrue([for spokes in output.spokes : length(spokes.egress_addresses) == 3 && length(spokes.groups) == 3])
    error_message = "One for each spoke."
  }
}
