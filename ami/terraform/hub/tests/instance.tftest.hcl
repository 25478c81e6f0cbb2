# The module of one hub, of which a test of the module above sees nothing but outputs.

mock_provider "aws" {
  source = "../mocks"
}

variables {
  name              = "hub-2"
  region            = "eu-west-1"
  image_id          = "ami-0a1b2c3d4e5f60718"
  instance_type     = "c7gn.large"
  subnet_id         = "subnet-1a1b2c3d4e5f60718"
  zone              = "eu-west-1b"
  security_group_id = "sg-0a1b2c3d4e5f60718"
  documents         = { policies = { key = "{}", hub = "{}" }, trust = "{}", config = "privnet = \"10.0.0.0/8\"\n" }
  alarm_topic_arn   = ""
}

run "one_instance_with_one_interface" {
  module {
    source = "./instance"
  }
  assert {
    condition     = aws_iam_role.this.name == "privnet-hub-eu-west-1-hub-2" && aws_iam_role.this.assume_role_policy == "{}"
    error_message = "The name by which the organization's policy and other accounts know its role."
  }
  assert {
    condition     = join(" ", keys(aws_iam_role_policy.this)) == "hub key"
    error_message = "The policies of its role."
  }
  assert {
    condition     = aws_launch_template.this.iam_instance_profile[0].arn == aws_iam_instance_profile.this.arn && aws_iam_instance_profile.this.role == aws_iam_role.this.name
    error_message = "With its own role."
  }
  assert {
    condition     = aws_autoscaling_group.this.min_size == 1 && aws_autoscaling_group.this.max_size == 1
    error_message = "One instance: there is one interface."
  }
  assert {
    condition     = join(" ", aws_autoscaling_group.this.availability_zones) == "eu-west-1b" && aws_network_interface.this.subnet_id == "subnet-1a1b2c3d4e5f60718"
    error_message = "In its interface's zone."
  }
  assert {
    condition     = aws_launch_template.this.network_interfaces[0].network_interface_id == aws_network_interface.this.id
    error_message = "With its own interface."
  }
  assert {
    condition     = aws_launch_template.this.metadata_options[0].http_tokens == "required" && aws_launch_template.this.instance_type == "c7gn.large"
    error_message = "IMDSv2 only, and the size."
  }
  assert {
    condition     = base64decode(aws_launch_template.this.user_data) == var.documents.config
    error_message = "Its user data is hub.toml."
  }
  assert {
    condition     = aws_network_interface.this.source_dest_check == false
    error_message = "It passes on what is not its own."
  }
  assert {
    condition     = length(aws_cloudwatch_metric_alarm.this) == 0
    error_message = "No alarm where none is asked for."
  }
  assert {
    condition = (
      output.address == aws_eip.this.public_ip && output.interface == aws_network_interface.this.id
      && output.role_arn == aws_iam_role.this.arn && output.group == aws_autoscaling_group.this.name
    )
    error_message = "What it tells."
  }
}

run "an_alarm" {
  module {
    source = "./instance"
  }
  variables {
    alarm_topic_arn = "arn:aws:sns:eu-west-1:999988887777:alarms"
  }
  assert {
    condition     = length(aws_cloudwatch_metric_alarm.this) == 1
    error_message = "Who is told."
  }
}
