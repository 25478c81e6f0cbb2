mock_provider "aws" {
  source = "../mocks"
}

variables {
  image_id                = "ami-0a1b2c3d4e5f60718"
  public_subnet_id        = "subnet-0a1b2c3d4e5f60718"
  private_route_table_ids = ["rtb-0a1b2c3d4e5f60718", "rtb-1a1b2c3d4e5f60718"]
  regions                 = ["eu-west-1"]
}

run "a_hub_alone" {
  assert {
    condition     = join(" ", keys(module.documents[0].policies)) == "doctor hub key secret"
    error_message = "The policies of its role."
  }
  assert {
    condition     = length(aws_route.privnet) == 2 && aws_route.privnet[1].destination_cidr_block == "10.0.0.0/8"
    error_message = "A route to the privnet in each private table."
  }
  assert {
    condition     = length(aws_vpc_security_group_ingress_rule.ipsec) == 0
    error_message = "No IPsec where none is asked for."
  }
  assert {
    condition     = length(module.instance) == 1 && output.second == null
    error_message = "No second hub where none is asked for."
  }
  assert {
    condition = (
      output.address == module.instance[0].address && output.interface == module.instance[0].interface
      && output.role_arn == module.instance[0].role_arn
      && output.group == module.instance[0].group && output.security_group_id == aws_security_group.this.id
      && output.key_parameter == "/privnet/hub/private-key"
    )
    error_message = "What it tells."
  }
}

run "a_second_hub_beside_it" {
  override_data {
    target = data.aws_subnet.second
    values = { vpc_id = "vpc-0a1b2c3d4e5f60718", availability_zone = "eu-west-1b" }
  }
  variables {
    hubs                    = 2
    second_public_subnet_id = "subnet-1a1b2c3d4e5f60718"
    more_config             = "[ipsec]"
  }
  assert {
    condition     = join(" ", local.subnets[*].availability_zone) == "eu-west-1a eu-west-1b"
    error_message = "Each in its own zone."
  }
  assert {
    condition     = module.documents[1].config == replace(module.documents[0].config, "/privnet/hub/private-key", "/privnet/hub-2/private-key")
    error_message = "Its config is the first's, but for the key."
  }
  assert {
    condition = (
      strcontains(module.documents[1].policies["key"], "parameter/privnet/hub-2/private-key")
      && !strcontains(join("", values(module.documents[1].policies)), "/privnet/hub/private-key")
      && !strcontains(join("", values(module.documents[0].policies)), "hub-2")
    )
    error_message = "Neither may read the other's key."
  }
  assert {
    condition     = length(aws_route.privnet) == 2 && alltrue([for route in aws_route.privnet : route.network_interface_id == module.instance[0].interface])
    error_message = "The VPC's routes stay at the first."
  }
  assert {
    condition = (
      output.second.address == module.instance[1].address && output.second.interface == module.instance[1].interface
      && output.second.role_arn == module.instance[1].role_arn
      && output.second.group == module.instance[1].group && output.second.key_parameter == "/privnet/hub-2/private-key"
    )
    error_message = "What it tells."
  }
}

run "a_second_hub_is_not_in_the_first_ones_zone" {
  command = plan
  variables {
    hubs                    = 2
    second_public_subnet_id = "subnet-1a1b2c3d4e5f60718"
  }
  expect_failures = [data.aws_subnet.second]
}

run "a_second_hub_is_somewhere" {
  command = plan
  variables {
    hubs = 2
  }
  expect_failures = [data.aws_subnet.second]
}

run "a_second_hub_has_its_own_key" {
  command = plan
  variables {
    hubs                     = 2
    second_public_subnet_id  = "subnet-1a1b2c3d4e5f60718"
    second_hub_key_parameter = "/privnet/hub/private-key"
  }
  override_data {
    target = data.aws_subnet.second
    values = { vpc_id = "vpc-0a1b2c3d4e5f60718", availability_zone = "eu-west-1b" }
  }
  expect_failures = [data.aws_subnet.second]
}

run "with_ipsec_keys_of_sites_and_another_account" {
  variables {
    ipsec_sources          = ["203.0.113.9/32", "203.0.113.10/32"]
    site_secret_parameters = "/privnet/site/*"
    discovery_roles        = [{ role_arn = "arn:aws:iam::222222222222:role/privnet-discovery", external_id = "a-long-random-text-of-ours" }]
  }
  assert {
    condition     = length(aws_vpc_security_group_ingress_rule.ipsec) == 4
    error_message = "Two ports for each of two firewalls."
  }
  assert {
    condition     = strcontains(module.documents[0].policies["site-secret"], "parameter/privnet/site/*")
    error_message = "It may read the sites' keys."
  }
  assert {
    condition     = strcontains(module.documents[0].policies["hub"], "arn:aws:iam::222222222222:role/privnet-discovery")
    error_message = "It may assume the other account's role."
  }
}
