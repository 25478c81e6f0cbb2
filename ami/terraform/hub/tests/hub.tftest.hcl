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
    condition     = aws_iam_role.this.name == "privnet-hub-eu-west-1-hub"
    error_message = "The name by which the organization's policy and other accounts know its role."
  }
  assert {
    condition     = join(" ", keys(aws_iam_role_policy.this)) == "doctor hub key secret"
    error_message = "The policies of its role."
  }
  assert {
    condition     = aws_autoscaling_group.this.min_size == 1 && aws_autoscaling_group.this.max_size == 1
    error_message = "One instance: there is one interface."
  }
  assert {
    condition     = join(" ", aws_autoscaling_group.this.availability_zones) == "eu-west-1a"
    error_message = "In its interface's zone."
  }
  assert {
    condition     = aws_launch_template.this.metadata_options[0].http_tokens == "required"
    error_message = "IMDSv2 only."
  }
  assert {
    condition     = base64decode(aws_launch_template.this.user_data) == module.documents.config
    error_message = "Its user data is hub.toml."
  }
  assert {
    condition     = aws_network_interface.this.source_dest_check == false
    error_message = "It passes on what is not its own."
  }
  assert {
    condition     = length(aws_route.privnet) == 2 && aws_route.privnet[1].destination_cidr_block == "10.0.0.0/8"
    error_message = "A route to the privnet in each private table."
  }
  assert {
    condition     = length(aws_vpc_security_group_ingress_rule.ipsec) == 0 && length(aws_cloudwatch_metric_alarm.this) == 0
    error_message = "Neither IPsec nor an alarm where none is asked for."
  }
  assert {
    condition     = length(aws_autoscaling_group.second) == 0 && output.second == null
    error_message = "No second hub where none is asked for."
  }
  assert {
    condition = (
      output.address == aws_eip.this.public_ip && output.interface == aws_network_interface.this.id
      && output.role_arn == aws_iam_role.this.arn
      && output.group == aws_autoscaling_group.this.name && output.security_group_id == aws_security_group.this.id
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
    alarm_topic_arn         = "arn:aws:sns:eu-west-1:999988887777:alarms"
    more_config             = "[ipsec]"
  }
  assert {
    condition     = aws_autoscaling_group.second[0].max_size == 1 && aws_network_interface.second[0].subnet_id == "subnet-1a1b2c3d4e5f60718"
    error_message = "A group of one, in its own subnet."
  }
  assert {
    condition     = join(" ", aws_autoscaling_group.second[0].availability_zones) == "eu-west-1b"
    error_message = "In its own zone."
  }
  assert {
    condition     = aws_launch_template.second[0].network_interfaces[0].network_interface_id == aws_network_interface.second[0].id
    error_message = "With its own interface."
  }
  assert {
    condition     = base64decode(aws_launch_template.second[0].user_data) == replace(module.documents.config, "/privnet/hub/private-key", "/privnet/hub-2/private-key")
    error_message = "Its config is the first's, but for the key."
  }
  assert {
    condition = (
      strcontains(aws_iam_role_policy.second_key[0].policy, "parameter/privnet/hub-2/private-key")
      && !strcontains(aws_iam_role_policy.this["key"].policy, "hub-2")
    )
    error_message = "The role may read its key, too."
  }
  assert {
    condition     = length(aws_route.privnet) == 2 && alltrue([for route in aws_route.privnet : route.network_interface_id == aws_network_interface.this.id])
    error_message = "The VPC's routes stay at the first."
  }
  assert {
    condition = (
      output.second.address == aws_eip.second[0].public_ip && output.second.interface == aws_network_interface.second[0].id
      && output.second.group == aws_autoscaling_group.second[0].name && output.second.key_parameter == "/privnet/hub-2/private-key"
      && length(aws_cloudwatch_metric_alarm.second) == 1
    )
    error_message = "What it tells, and who is told."
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
  expect_failures = [aws_iam_role_policy.second_key]
}

run "with_ipsec_an_alarm_and_another_account" {
  variables {
    instance_type   = "c7gn.large"
    ipsec_sources   = ["203.0.113.9/32", "203.0.113.10/32"]
    alarm_topic_arn = "arn:aws:sns:eu-west-1:999988887777:alarms"
    discovery_roles = [{ role_arn = "arn:aws:iam::222222222222:role/privnet-discovery", external_id = "a-long-random-text-of-ours" }]
  }
  assert {
    condition     = length(aws_vpc_security_group_ingress_rule.ipsec) == 4
    error_message = "Two ports for each of two firewalls."
  }
  assert {
    condition     = length(aws_cloudwatch_metric_alarm.this) == 1 && aws_launch_template.this.instance_type == "c7gn.large"
    error_message = "Who is told, and the size."
  }
  assert {
    condition     = strcontains(aws_iam_role_policy.this["hub"].policy, "arn:aws:iam::222222222222:role/privnet-discovery")
    error_message = "It may assume the other account's role."
  }
}
