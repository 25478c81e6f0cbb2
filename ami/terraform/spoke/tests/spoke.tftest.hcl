mock_provider "aws" {
  source = "../mocks"
}

variables {
  name                    = "a"
  image_id                = "ami-1a1b2c3d4e5f60718"
  vpc_id                  = "vpc-0a1b2c3d4e5f60718"
  public_subnet_ids       = ["subnet-0a1b2c3d4e5f60718", "subnet-1a1b2c3d4e5f60718"]
  private_route_table_ids = ["rtb-0a1b2c3d4e5f60718", "rtb-1a1b2c3d4e5f60718"]
  hub_address             = "198.51.100.100"
  hub_public_key          = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="
  self_test_targets       = ["192.0.2.1:443", "198.51.100.1:443"]
}

run "one_in_each_zone" {
  assert {
    condition     = length(aws_autoscaling_group.this) == 2 && length(output.groups) == 2
    error_message = "A group of one in each zone."
  }
  assert {
    condition = alltrue([for group in aws_autoscaling_group.this : anytrue([
      for tag in group.tag : tag.key == "service" && tag.value == "nat" && tag.propagate_at_launch
    ])])
    error_message = "The hub knows them by their tags."
  }
  assert {
    condition     = join(" ", keys(aws_iam_role_policy.this)) == "address doctor routes secret source-dest-check spoke"
    error_message = "The policies of their role."
  }
  assert {
    condition = strcontains(aws_iam_role_policy.this["routes"].policy,
    "arn:aws:ec2:eu-west-1:999988887777:route-table/rtb-1a1b2c3d4e5f60718")
    error_message = "They may change the VPC's tables."
  }
  assert {
    condition     = length(aws_eip.this) == 2 && length(output.egress_addresses) == 2
    error_message = "An address for each."
  }
  assert {
    condition     = aws_vpc_security_group_ingress_rule.tunnel[0].cidr_ipv4 == "198.51.100.100/32"
    error_message = "The hub calls, too."
  }
  assert {
    condition     = base64decode(aws_launch_template.this.user_data) == module.documents.config
    error_message = "Their user data is spoke.toml."
  }
  assert {
    condition     = output.security_group_id == aws_security_group.this.id && output.role_arn == aws_iam_role.this.arn
    error_message = "What it tells."
  }
}

run "by_ipsec_nobody_calls_them" {
  variables {
    transport          = "ipsec"
    hub_public_key     = ""
    second_hub_address = "198.51.100.101"
  }
  assert {
    condition     = length(aws_vpc_security_group_ingress_rule.tunnel) == 0
    error_message = "No port is open to the hub."
  }
  assert {
    condition     = strcontains(module.documents.config, "transport     = \"ipsec\"") && contains(keys(aws_iam_role_policy.this), "spoke")
    error_message = "They tell the hub how they reach it."
  }
  assert {
    condition     = length(aws_autoscaling_group.this) == 2 && strcontains(module.documents.config, "{ \"privnet:az\" = \"self\" }")
    error_message = "One in each zone, which serves that zone's tables."
  }
  assert {
    condition     = strcontains(module.documents.config, "[[hub]]\nendpoint = \"198.51.100.100\"\n\n[[hub]]\nendpoint = \"198.51.100.101\"\n")
    error_message = "The second hub comes after the first."
  }
}

run "by_wireguard_there_is_one_hub" {
  command = plan
  variables {
    second_hub_address = "198.51.100.101"
  }
  expect_failures = [aws_launch_template.this]
}

run "the_nat_gateways_of_the_hubs_vpc" {
  variables {
    transport        = "none"
    hub_address      = ""
    hub_public_key   = ""
    addresses        = "one"
    keep_connections = true
  }
  assert {
    condition     = length(aws_vpc_security_group_ingress_rule.tunnel) == 0 && !contains(keys(aws_iam_role_policy.this), "spoke")
    error_message = "No tunnel, and nothing for one."
  }
  assert {
    condition     = length(aws_eip.this) == 1 && length(aws_vpc_security_group_ingress_rule.connections) == 1
    error_message = "One address, whose connections they tell each other."
  }
}

run "a_tunnel_needs_a_hub" {
  command = plan
  variables {
    hub_address    = ""
    hub_public_key = ""
  }
  expect_failures = [aws_launch_template.this]
}
